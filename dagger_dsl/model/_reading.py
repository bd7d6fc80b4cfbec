"""Reading a plain document into the IR: every problem is collected, none stops the reading."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import attrs

from dagger_dsl.errors import (
    CodecError,
    ConfigurationError,
    DaggerError,
    Place,
    Problem,
    did_you_mean,
)
from dagger_dsl.model import _scalars as scalars
from dagger_dsl.model._reading_machine import read_machine
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.graph import RESULT, Edge, Graph, GraphInput, Input, Node, Output
from dagger_dsl.model.policies import DEFAULT_RETRY, RetryPolicy
from dagger_dsl.model.values import Literal

#: Keys and indices from the top of a document: ``("nodes", 2, "retry")``.
PlainPath: TypeAlias = tuple[str | int, ...]

#: ``locate(path, key)`` says where the value at *path* is, or its key where *key* is true.
Locate: TypeAlias = Callable[[PlainPath, bool], Place]

#: How many errors, and how many warnings, of one document are listed; the rest is counted.
MAX_PROBLEMS = 100

# Suggestions compare with every known name; a hostile file must not make that the bulk of the work.
_SUGGESTIONS, _SUGGEST_FROM = 10, 1_000
_LONGEST_MESSAGE = 1_000

_T = TypeVar("_T")
_BARE_KEY = re.compile(r"[\w-]+")


def path_text(path: Iterable[str | int]) -> str:
    """Return *path* as text: ``$.nodes[2].retry``."""
    return "$" + "".join(
        f".{step}" if isinstance(step, str) and _BARE_KEY.fullmatch(step) else f"[{step!r}]"
        for step in path
    )


class Reader:
    """Reads one document: collects problems instead of stopping at the first."""

    def __init__(self, locate: Locate | None, strict: bool) -> None:
        self._locate = locate
        self._strict = strict
        self._problems: list[Problem] = []
        self._suggestions = _SUGGESTIONS
        self.errors = 0
        self._warnings = 0

    # Reports.

    def report(
        self,
        path: PlainPath,
        message: str,
        code: str = "invalid",
        *,
        key: bool = False,
        node: str | None = None,
        severity: str = "error",
    ) -> None:
        """Note one problem at *path*."""
        if severity == "error":
            self.errors += 1
        else:
            self._warnings += 1
        if (self.errors if severity == "error" else self._warnings) > MAX_PROBLEMS:
            return
        if len(message) > _LONGEST_MESSAGE:
            half = _LONGEST_MESSAGE // 2
            message = f"{message[:half]} ... {message[-half:]}"
        place = self.place(path, key, node)
        # A place without a line names the node itself.
        if node is not None and place.line is not None:
            message = f"node {scalars.short(node)}: {message}"
        self._problems.append(Problem(message, place, code, severity))

    def place(self, path: PlainPath, key: bool = False, node: str | None = None) -> Place:
        """Return where *path* is."""
        place = Place() if self._locate is None else self._locate(path, key)
        place.path = path_text(path)
        place.node = node
        return place

    def finish(self) -> list[Problem]:
        """Return the problems; what was only counted becomes one more."""
        for count, severity in ((self.errors, "error"), (self._warnings, "warning")):
            if count > MAX_PROBLEMS:
                message = f"and {count - MAX_PROBLEMS} more of its kind; mend the first ones"
                self._problems.append(Problem(message, self.place(()), "more", severity))
        return self._problems

    def suggest(self, word: str, known: Iterable[str]) -> str:
        """Return a did-you-mean, as long as that stays cheap."""
        if not isinstance(word, str) or len(word) > 200 or self._suggestions <= 0:
            return ""
        self._suggestions -= 1
        return did_you_mean(word, itertools.islice(known, _SUGGEST_FROM))

    def unknown(
        self, key: Any, path: PlainPath, what: str, known: Iterable[str], node: str | None = None
    ) -> None:
        """Report a key that *what* does not have."""
        self.report(
            (*path, key),
            f"{what} has no key {scalars.short(key)}{self.suggest(key, known)}",
            "unknown-key",
            key=True,
            node=node,
            severity="error" if self._strict else "warning",
        )

    # Values.

    def literal(self, plain: Any, path: PlainPath, node: str | None = None) -> Literal | None:
        """Return the literal *plain* stands for, or None where it is none."""
        try:
            return Literal.of_plain(plain)
        except CodecError as error:
            self.report(path, str(error), "bad-value", node=node)
        except RecursionError:
            self.report(path, "nested too deep; flatten the value", "bad-value", node=node)
        return None

    def mapping(
        self, plain: Any, path: PlainPath, what: str, node: str | None = None
    ) -> Mapping[Any, Any] | None:
        """Return *plain* if it is a mapping."""
        if isinstance(plain, Mapping):
            return plain
        self.report(path, f"{what} is a mapping of keys, not {scalars.kind(plain)}", node=node)
        return None

    def items(self, plain: Any, path: PlainPath, what: str, node: str | None = None) -> list[Any]:
        """Return *plain* if it is a list, else an empty one."""
        if isinstance(plain, list):
            return plain
        hint = f"; write [{plain}]" if isinstance(plain, str) and 0 < len(plain) < 50 else ""
        self.report(path, f"{what} must be a list, not {scalars.kind(plain)}{hint}", node=node)
        return []

    def texts(self, plain: Any, path: PlainPath, what: str, node: str | None = None) -> list[str]:
        """Return the texts of a list of texts."""
        found = []
        for index, each in enumerate(self.items(plain, path, what, node)):
            if isinstance(each, str) and each:
                if not self.half(each, f"one of the {what}", (*path, index), node):
                    found.append(each)
            else:
                self.report(
                    (*path, index),
                    f"{what} are texts that are not empty, not {scalars.found(each)}",
                    node=node,
                )
        return found

    def half(self, name: str, what: str, path: PlainPath, node: str | None = None) -> bool:
        """Report a name with half a character; return whether it has one."""
        fault = scalars.half_character(name)
        if fault is not None:
            self.report(path, f"{what} {fault}", "bad-value", node=node)
        return fault is not None

    def made(self, make: Callable[[], _T], path: PlainPath, node: str | None = None) -> _T | None:
        """Return what *make* makes of values read; report what it refuses."""
        try:
            return make()
        except DaggerError as error:
            self.report(path, str(error), "bad-value", node=node)
            return None

    # The graph.

    def graph(self, plain: Any, links: bool) -> Graph | None:
        """Return the graph, as far as it could be read."""
        table = self.mapping(plain, (), "a workflow")
        if table is None:
            return None
        fields: dict[str, Any] = {}
        nodes: list[Node] | None = None
        ids: dict[str, int] = {}
        for key, value in table.items():
            path: PlainPath = (key,)
            if key == "nodes":
                nodes = self.nodes(value, path, ids)
            elif key == "edges":
                pass  # their ends are ids, so they come after the nodes
            elif key not in _GRAPH_KEYS:
                self.unknown(key, (), "a workflow", _GRAPH_KEYS)
            elif key == "name":
                self.simple(fields, "name", scalars.name, value, path)
            elif value is None:
                pass
            elif key == "tags":
                fields["tags"] = self.texts(value, path, "tags")
            elif key == "config":
                fields["config"] = self.config(value, path)
            elif key == "inputs":
                fields["inputs"] = self.graph_inputs(value, path)
            elif key == "machine":
                fields["machine"] = read_machine(self, value, path)
            else:
                self.simple(fields, key, scalars.text, value, path)
        for key, form in (("name", "name: my_workflow"), ("nodes", "nodes: [{id: ..., ...}]")):
            if key not in table:
                self.report((), f"a workflow needs {key!r}; write `{form}`", "missing-key")
        edges = self.edges(table.get("edges"), ("edges",), ids)
        if links and nodes is not None:
            self.links(table["nodes"], nodes, ids)
        if self.errors:
            return None
        try:
            return Graph(nodes=nodes or (), edges=edges, **fields)
        except DaggerError as error:
            self.report((), str(error))
            return None

    def simple(
        self,
        fields: dict[str, Any],
        name: str,
        read: Callable[[Any, str], Any],
        value: Any,
        path: PlainPath,
        node: str | None = None,
    ) -> None:
        """Read one scalar field; `read` raises `ConfigurationError` where it is wrong."""
        try:
            fields[name] = read(value, str(path[-1]))
        except (ValueError, OverflowError) as error:
            self.report(path, str(error), "bad-value", node=node)

    def graph_inputs(self, plain: Any, path: PlainPath) -> list[GraphInput]:
        """Return what a run is given: a list of mappings or names, or a mapping by name."""
        found: dict[str, GraphInput] = {}
        entries: Iterable[tuple[PlainPath, Any, Any]]
        if isinstance(plain, Mapping):
            entries = [((*path, key), key, value) for key, value in plain.items()]
        else:
            entries = [
                ((*path, index), each.get("name") if isinstance(each, Mapping) else each, each)
                for index, each in enumerate(self.items(plain, path, "inputs"))
            ]
        for where, name, entry in entries:
            if not isinstance(name, str) or not name:
                self.report(
                    where,
                    f"an input needs a name, a text, not {scalars.found(name)}",
                )
                continue
            if name in found:
                self.report(
                    where, f"input {scalars.short(name)} is declared twice", "duplicate-input"
                )
                continue
            if self.half(name, "an input's name", where):
                continue
            made = self.graph_input(name, entry, where)
            if made is not None:
                found[name] = made
        return list(found.values())

    def graph_input(self, name: str, plain: Any, path: PlainPath) -> GraphInput | None:
        """Return one declared input of the graph."""
        fields: dict[str, Any] = {}
        if plain is None or isinstance(plain, str):
            return self.made(lambda: GraphInput(name), path)
        for key, value in (self.mapping(plain, path, "an input") or {}).items():
            where = (*path, key)
            if key == "default":
                fields["default"] = self.literal(value, where)
            elif key not in ("name", "schema", "required", "description"):
                self.unknown(
                    key, path, "an input", ("name", "description", "schema", "default", "required")
                )
            elif value is None or key == "name":
                pass
            elif key == "schema":
                if isinstance(value, (Mapping, bool)):
                    fields["schema"] = self.literal(value, where)
                else:
                    self.report(
                        where, f"a schema is a JSON Schema mapping, not {scalars.kind(value)}"
                    )
            elif key == "required":
                self.simple(fields, "required", scalars.flag, value, where)
            else:
                self.simple(fields, "description", scalars.text, value, where)
        fields.setdefault("required", "default" not in fields)
        return self.made(lambda: GraphInput(name, **fields), path)

    def config(self, plain: Any, path: PlainPath) -> DagConfig | None:
        """Return the graph's configuration; only the keys that are there count as given."""
        fields: dict[str, Any] = {}
        for key, value in (self.mapping(plain, path, "config") or {}).items():
            where = (*path, key)
            name = "on_failure" if key == "onfailure" else key
            if name not in _CONFIG_KEYS:
                self.unknown(key, path, "config", _CONFIG_KEYS)
            elif name in fields:
                self.report(where, "on_failure is given twice", "duplicate-key")
            elif name == "on_failure":
                self.on_failure(fields, value, where)
            elif name == "retry_strategy":
                policy = self.retry(value, where)
                fields["retry_strategy"] = DEFAULT_RETRY if policy is None else policy
            else:
                self.simple(fields, name, scalars.config_field, value, where)
        try:
            return DagConfig(**fields)
        except ConfigurationError as error:
            self.report(path, str(error))
            return None

    def on_failure(
        self, fields: dict[str, Any], value: Any, path: PlainPath, node: str | None = None
    ) -> None:
        """Read booleans of YAML 1.1 and 1.2 and the enum's words."""
        word = value.strip().lower() if isinstance(value, str) else value
        if word == "halt":
            self.report(
                path,
                "'halt' is an old word for 'stop'; write 'stop'",
                "deprecated",
                node=node,
                severity="warning",
            )
        if isinstance(word, (bool, str)) and word in scalars.FAILURE_WORDS:
            fields["on_failure"] = scalars.FAILURE_WORDS[word]
        else:
            self.simple(fields, "on_failure", scalars.on_failure, value, path, node)

    def retry(self, plain: Any, path: PlainPath, node: str | None = None) -> RetryPolicy | None:
        """Return a retry policy: a mapping of its fields, a number of retries, or a name."""
        fields: dict[str, Any] = {}
        if isinstance(plain, str):
            self.simple(fields, "retry", scalars.named_retry, plain, path, node)
            return fields.get("retry")
        if isinstance(plain, int):
            self.simple(fields, "retry", scalars.retries, plain, path, node)
            return fields.get("retry")
        for key, value in (self.mapping(plain, path, "retry", node) or {}).items():
            if key not in scalars.RETRY_KEYS:
                self.unknown(key, path, "retry", scalars.RETRY_KEYS, node)
            elif value is not None:
                self.simple(fields, key, scalars.retry_field, value, (*path, key), node)
        try:
            return RetryPolicy(**fields)
        except ConfigurationError as error:
            self.report(path, str(error), "bad-value", node=node)
            return None

    # Nodes.

    def nodes(self, plain: Any, path: PlainPath, ids: dict[str, int]) -> list[Node]:
        """Return the nodes that could be read; *ids* gets the index of every id."""
        found = []
        for index, each in enumerate(self.items(plain, path, "nodes")):
            where = (*path, index)
            node = self.node(each, where)
            name = each.get("id") if isinstance(each, Mapping) else None
            if isinstance(name, str):
                first = ids.setdefault(name, index)
                if first != index:
                    self.report(
                        (*where, "id"),
                        f"the id is used twice, first at {self.place((*path, first, 'id'))}; "
                        "give one of the nodes another id",
                        "duplicate-node",
                        node=name,
                    )
            if node is not None:
                found.append(node)
        return found

    def node(self, plain: Any, path: PlainPath) -> Node | None:
        """Return one node, or None where it could not be read."""
        if not isinstance(plain, Mapping):
            self.report(
                path, f"a node is a mapping with an id and an action, not {scalars.kind(plain)}"
            )
            return None
        before = self.errors
        given = plain.get("id")
        name = given if isinstance(given, str) else None
        fields: dict[str, Any] = {}
        for key, value in plain.items():
            if value is None and key not in ("id", "action"):
                pass
            elif (read := _NODE_SCALARS.get(key)) is not None:
                try:
                    fields[key] = read(value, key)
                except (ValueError, OverflowError) as error:
                    code = "bad-id" if key == "id" else "bad-value"
                    self.report((*path, key), str(error), code, node=name)
            elif (part := _NODE_PARTS.get(key)) is not None:
                part(self, fields, value, (*path, key), name)
            else:
                self.unknown(key, path, "a node", _NODE_KEYS, name)
        if "action" not in plain and isinstance(fields.get("subgraph"), str):
            fields["action"] = fields["subgraph"]  # it is passed over where there is a body
        for key in ("id", "action"):
            if key not in plain and key not in fields:
                self.report(path, f"a node needs the key {key!r}", "missing-key", node=name)
        if "onfailure" in plain and "on_failure" in plain:
            self.report(
                (*path, "on_failure"),
                "onfailure and on_failure are the same; drop one",
                "duplicate-key",
                key=True,
                node=name,
            )
        if isinstance(plain.get("retry"), int) and plain.get("try_count") is not None:
            self.report(
                (*path, "retry"),
                "try_count counts calls and retry extra calls; give one of them",
                "contradiction",
                key=True,
                node=name,
            )
        if self.errors > before:
            return None
        try:
            return Node(**fields)
        except DaggerError as error:
            self.report(path, str(error), node=name)
            return None

    def node_failure(
        self, fields: dict[str, Any], value: Any, path: PlainPath, node: str | None
    ) -> None:
        self.on_failure(fields, value, path, node)

    def node_dependencies(
        self, fields: dict[str, Any], value: Any, path: PlainPath, node: str | None
    ) -> None:
        fields["dependencies"] = self.texts(value, path, "dependencies", node)

    def node_retry(
        self, fields: dict[str, Any], value: Any, path: PlainPath, node: str | None
    ) -> None:
        fields["retry"] = self.retry(value, path, node)

    def node_cache(
        self, fields: dict[str, Any], value: Any, path: PlainPath, node: str | None
    ) -> None:
        self.simple(fields, "cache_strategy", scalars.cache, value, path, node)

    def node_metadata(
        self, fields: dict[str, Any], value: Any, path: PlainPath, node: str | None
    ) -> None:
        if self.mapping(value, path, "metadata", node) and (
            literal := self.literal(value, path, node)
        ):
            if isinstance(literal.value, dict):
                fields["metadata"] = literal
            else:
                self.report(path, "metadata is a mapping of keys", node=node)

    def node_inputs(
        self, fields: dict[str, Any], value: Any, path: PlainPath, node: str | None
    ) -> None:
        found: dict[str, Input] = {}
        short = isinstance(value, Mapping)  # {name: value}, without a mapping for each input
        for where, entry in self._input_entries(value, path, node):
            given = self.input(entry, where, node, short)
            if given is not None and given.name in found:
                self.report(
                    where,
                    f"input {scalars.short(given.name)} is given twice; drop one",
                    "duplicate-input",
                    node=node,
                )
            elif given is not None:
                found[given.name] = given
        fields["inputs"] = list(found.values())

    def _input_entries(
        self, plain: Any, path: PlainPath, node: str | None
    ) -> list[tuple[PlainPath, Any]]:
        """Return the inputs in the list form, with the path of each."""
        if isinstance(plain, Mapping):
            return [((*path, k), {"name": k, "value": value}) for k, value in plain.items()]
        entries = self.items(plain, path, "inputs", node)
        return [((*path, index), each) for index, each in enumerate(entries)]

    def input(self, plain: Any, path: PlainPath, node: str | None, short: bool) -> Input | None:
        """Return one input of a node: ``{name, description, reference | value}``."""

        def at(key: str) -> PlainPath:
            return path if short or key not in plain else (*path, key)

        table = self.mapping(plain, path, "an input", node)
        if table is None:
            return None
        before = self.errors
        for key in table:
            if key not in _INPUT_KEYS:
                self.unknown(key, path, "an input", _INPUT_KEYS, node)
        name = table.get("name")
        if not isinstance(name, str) or not name:
            self.report(
                at("name"),
                f"an input needs a name, a text, not {scalars.found(name)}",
                "missing-key" if name is None else "bad-value",
                node=node,
            )
            name = "?"
        elif self.half(name, "an input's name", at("name"), node):
            name = "?"
        fields: dict[str, Any] = {}
        if table.get("description") is not None:
            self.simple(
                fields,
                "description",
                scalars.text,
                table["description"],
                (*path, "description"),
                node,
            )
        reference, where = table.get("reference"), at("reference")
        literal: Literal | None = None
        if "value" in table and reference is not None:
            self.report(
                path,
                f"input {scalars.short(name)} has a reference and a value; drop one",
                "contradiction",
                node=node,
            )
        elif "value" in table:
            value, where = table["value"], at("value")
            if isinstance(value, Mapping) and len(value) == 1 and "$ref" in value:
                reference = value["$ref"]
            else:
                literal = self.literal(value, where, node)
        elif reference is None:
            self.report(
                path,
                f"input {scalars.short(name)} needs a reference or a value",
                "missing-key",
                node=node,
            )
        if reference is not None:
            self.simple(fields, "reference", scalars.reference, reference, where, node)
        if self.errors > before:
            return None
        if literal is not None:
            fields["value"] = literal
        return self.made(lambda: Input(name, **fields), at("name"), node)

    def node_outputs(
        self, fields: dict[str, Any], value: Any, path: PlainPath, node: str | None
    ) -> None:
        found: dict[str, Output] = {}
        for index, each in enumerate(self.items(value, path, "outputs", node)):
            where = (*path, index)
            table = {"name": each} if isinstance(each, str) else each
            read = self.mapping(table, where, "an output", node)
            if read is None:
                continue
            for key in read:
                if key not in _OUTPUT_KEYS:
                    self.unknown(key, where, "an output", _OUTPUT_KEYS, node)
            name, note = read.get("name"), read.get("description")
            if not isinstance(name, str) or not name:
                self.report(
                    where,
                    f"an output needs a name, a text, not {scalars.found(name)}",
                    "missing-key" if name is None else "bad-value",
                    node=node,
                )
                continue
            if self.half(name, "an output's name", where, node):
                continue
            if name in found:
                self.report(
                    where,
                    f"output {scalars.short(name)} is declared twice; drop one",
                    "duplicate-output",
                    node=node,
                )
            extra: dict[str, Any] = {}
            if note is not None:
                self.simple(extra, "description", scalars.text, note, (*where, "description"), node)
            made = self.made(partial(Output, name, **extra), where, node)
            if made is not None:
                found[name] = made
        fields["outputs"] = list(found.values())

    # What leads from node to node.

    def edges(self, plain: Any, path: PlainPath, ids: Mapping[str, int]) -> list[Edge]:
        """Return the edges of the document's own list: mappings or pairs."""
        if plain is None:
            return []
        found = []
        for index, each in enumerate(self.items(plain, path, "edges")):
            edge = self.edge(each, (*path, index), ids)
            if edge is not None:
                found.append(edge)
        return found

    def edge(self, plain: Any, path: PlainPath, ids: Mapping[str, int]) -> Edge | None:
        """Return one edge: ``{source, target, when}`` or ``[source, target]``."""
        before = self.errors
        fields: dict[str, Any] = {}
        if isinstance(plain, list) and len(plain) == 2:
            ends: Any = {"source": (0, plain[0]), "target": (1, plain[1])}
        elif isinstance(plain, Mapping):
            for key in plain:
                if key not in _EDGE_KEYS:
                    self.unknown(key, path, "an edge", _EDGE_KEYS)
            ends = {key: (key, plain[key]) for key in ("source", "target") if key in plain}
            if plain.get("when") is not None:
                self.simple(fields, "when", scalars.label, plain["when"], (*path, "when"))
        else:
            self.report(
                path,
                "an edge is written {source: a, target: b}, with `when` for a label, or [a, b]; "
                f"this is {scalars.kind(plain)}",
            )
            return None
        for key in ("source", "target"):
            step, name = ends.get(key, (None, None))
            where = path if step is None else (*path, step)
            if not isinstance(name, str):
                self.report(
                    where,
                    f"an edge's {key} is the id of a node, a text, not {scalars.found(name)}",
                    "missing-key" if step is None else "bad-value",
                )
            elif name not in ids:
                self.report(
                    where,
                    f"the edge's {key} {scalars.short(name)} is not a node of this workflow"
                    f"{self.suggest(name, ids)}",
                    "unknown-dependency",
                )
            else:
                fields[key] = name
        return self.made(lambda: Edge(**fields), path) if self.errors == before else None

    def links(self, plain: Any, nodes: list[Node], ids: Mapping[str, int]) -> None:
        """Report dependencies and references that lead nowhere, in nodes good and bad."""
        outputs = {node.id: {out.name for out in node.outputs} for node in nodes if node.outputs}
        if not isinstance(plain, list):
            return
        for index, each in enumerate(plain):
            if not isinstance(each, Mapping):
                continue
            path: PlainPath = ("nodes", index)
            name = each.get("id") if isinstance(each.get("id"), str) else None
            listed = each.get("dependencies")
            for place, source in enumerate(listed if isinstance(listed, list) else ()):
                if isinstance(source, str) and source and source not in ids:
                    self._lost((*path, "dependencies", place), source, ids, name, "depends on")
            for where, reference in _references(each.get("inputs"), (*path, "inputs")):
                source, _, output = reference.partition(".")
                if source == "inputs":
                    continue
                if source not in ids:
                    self._lost(where, source, ids, name, "refers to")
                elif output != RESULT and output not in outputs.get(source, (output,)):
                    self.report(
                        where,
                        f"{scalars.short(source)} declares no output {scalars.short(output)}"
                        f"{self.suggest(output, outputs[source])}",
                        "unknown-output",
                        node=name,
                    )

    def _lost(
        self, path: PlainPath, source: str, ids: Mapping[str, int], node: str | None, verb: str
    ) -> None:
        self.report(
            path,
            f"{verb} {scalars.short(source)}, which is not a node of this workflow"
            f"{self.suggest(source, ids)}",
            "unknown-dependency",
            node=node,
        )


def _references(plain: Any, path: PlainPath) -> Iterable[tuple[PlainPath, str]]:
    """Yield the well-formed references of a node's inputs in either form."""
    short = isinstance(plain, Mapping)
    if short:
        entries: Iterable[tuple[str | int, Any]] = [(k, {"value": v}) for k, v in plain.items()]
    elif isinstance(plain, list):
        entries = enumerate(plain)
    else:
        return
    for step, entry in entries:
        if not isinstance(entry, Mapping):
            continue
        key, reference = "reference", entry.get("reference")
        value = entry.get("value")
        if reference is None and isinstance(value, Mapping) and len(value) == 1:
            key, reference = "value", value.get("$ref")
        if isinstance(reference, str):
            source, dot, output = reference.partition(".")
            if source and dot and output:
                yield ((*path, step) if short else (*path, step, key)), reference


_GRAPH_KEYS: Final = (
    "name",
    "description",
    "author",
    "version",
    "signature",
    "tags",
    "instructions",
    "config",
    "inputs",
    "machine",
    "nodes",
    "edges",
)
_CONFIG_KEYS: Final = tuple(
    field.name for field in attrs.fields(DagConfig) if field.name != "given"
)
_INPUT_KEYS: Final = ("name", "description", "reference", "value")
_OUTPUT_KEYS: Final = ("name", "description")
_EDGE_KEYS: Final = ("source", "target", "when")

_NODE_SCALARS: Final[dict[str, Callable[[Any, str], Any]]] = {
    "id": scalars.node_id,
    "action": scalars.word,
    "failure": scalars.word,
    "timeout": scalars.duration,
    "try_count": scalars.count,
    "trigger": scalars.trigger,
    "map_over": scalars.word,
    "max_parallel": scalars.parallel,
    "map_depth": scalars.depth,
    "map_errors": scalars.word,
    "map_batch": scalars.batch,
    "effects": scalars.effects,
    "branch": scalars.word,
    "keep": scalars.flag,
    "enabled": scalars.flag,
    "fallback": scalars.word,
    "subgraph": scalars.word,
    "description": scalars.text,
    "instructions": scalars.text,
}

_NODE_PARTS: Final[
    dict[str, Callable[[Reader, dict[str, Any], Any, PlainPath, str | None], None]]
] = {
    "dependencies": Reader.node_dependencies,
    "inputs": Reader.node_inputs,
    "outputs": Reader.node_outputs,
    "onfailure": Reader.node_failure,
    "on_failure": Reader.node_failure,
    "retry": Reader.node_retry,
    "cache_strategy": Reader.node_cache,
    "metadata": Reader.node_metadata,
}
_NODE_KEYS: Final = (*_NODE_SCALARS, *_NODE_PARTS)
