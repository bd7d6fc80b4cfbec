"""What a command line names: workflows, actions, inputs.

Python code is imported only where the user wrote its name on the command line, or put
``actions.py`` beside a YAML file that is being run. Nothing is ever imported because a file or a
row names it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from dagger_dsl.errors import (
    ConfigurationError,
    DaggerError,
    InputValidationError,
    Problem,
    did_you_mean,
)

if TYPE_CHECKING:
    from dagger_dsl.engine.workflow import Workflow
    from dagger_dsl.model.graph import Graph, Node
    from dagger_dsl.registry import Registry

__all__ = [
    "BrokenCode",
    "Source",
    "input_names",
    "load_actions",
    "load_module",
    "load_source",
    "misread_inputs",
    "missing_inputs",
    "read_inputs",
    "read_value",
    "take",
]

#: The module beside a YAML file that is taken for its actions when none are named.
BESIDE = "actions.py"


class BrokenCode(DaggerError):
    """Importing the user's code raised; ``__cause__`` is what it raised."""


class Source(NamedTuple):
    """A workflow that a command line names.

    Attributes:
        graph: The graph.
        registry: Where its actions are looked up.
        actions: What ``--actions`` has to say to find them again.
        problems: What is odd but harmless in its file: keys that nobody knows, old words.
    """

    graph: Graph
    registry: Registry
    actions: str | None
    problems: tuple[Problem, ...] = ()


def load_source(
    text: str,
    actions: str | None,
    *,
    strict: bool = False,
    import_beside: bool = True,
    told: Callable[[str], None] = lambda _line: None,
) -> Source:
    """Return the workflow that FILE names.

    Args:
        text: A YAML file, ``pipeline.py:dag`` or ``pipeline.py``.
        actions: What ``--actions`` says.
        strict: Whether keys nobody knows are errors.
        import_beside: Whether ``actions.py`` beside a YAML file is taken when *actions* is None.
        told: Called with a line that says what was imported unasked.

    Raises:
        YamlError, ConfigurationError: There is no such workflow.
        BrokenCode: The user's code cannot be imported.
    """
    path, name = _split(text)
    if path is not None:
        return _from_python(path, name, actions)
    from dagger_dsl.yamlio.load import decoded, read_bytes, read_text

    # load_yaml_file would log the problems; whoever called shows them.
    graph, problems, _ = read_text(decoded(read_bytes(text, None), text, None), text, None, strict)
    if actions is None and import_beside:
        beside = Path(text).parent / BESIDE
        if beside.is_file():
            actions = str(beside)
            told(f"actions: {beside}")
    return Source(graph, load_actions(actions, graph.name), actions, tuple(problems))


def load_actions(actions: str | None, dag_name: str | None = None) -> Registry:
    """Return the actions and hooks of a module or a .py file.

    Args:
        actions: Names it; None means what is registered.
        dag_name: The graph of the run that is to have them: hooks that a DAG of this name there
            keeps for itself count, too.
    """
    from dagger_dsl.registry import as_registry

    if actions is None:
        return as_registry(None)
    module = load_module(actions)
    registry = _registry_of(module)
    for dag in _dags_of(module):
        if dag.name == dag_name:
            _take_hooks(registry, dag.registry)
    return registry


def _split(text: str) -> tuple[str | None, str | None]:
    """Return the Python file and the name that FILE means, ``(None, None)`` for YAML."""
    if text.endswith(".py"):
        return text, None
    path, colon, name = text.rpartition(":")
    return (path, name) if colon and path.endswith(".py") else (None, None)


def _from_python(path: str, name: str | None, actions: str | None) -> Source:
    from dagger_dsl.registry import Registry

    module = load_module(path)
    found = _workflow(module, path, name)
    graph = found if _is_graph(found) else found.compile()
    # Hooks that the file registers are found in the registry in force, as they are by a resume.
    registry = Registry(parent=load_actions(actions))
    theirs = _registry_of(module)
    own = getattr(found, "registry", None)
    # What the DAG was built with beats what the module calls the same.
    for each in (theirs,) if own is None else (theirs, own):
        take(registry, each)
        _take_hooks(registry, each)
    return Source(graph, registry, actions if actions is not None else path)


def _workflow(module: ModuleType, path: str, name: str | None) -> Any:
    known = {
        each: thing
        for each, thing in vars(module).items()
        if not each.startswith("_") and not isinstance(thing, type) and _is_workflow(thing)
    }
    if name is None:
        distinct = {id(thing): each for each, thing in known.items()}
        if len(distinct) == 1:
            return known[next(iter(distinct.values()))]
        if not known:
            raise ConfigurationError(
                f"{path} has no DAG and no Graph; make one there, or run a YAML file with "
                f"--actions {path}"
            )
        names = ", ".join(f"{path}:{each}" for each in known)
        raise ConfigurationError(f"{path} does not say which DAG is meant; write one of: {names}")
    thing = getattr(module, name, None)
    if thing is None or not _is_workflow(thing):
        found = "there is none" if thing is None else f"it is a {type(thing).__name__}"
        raise ConfigurationError(
            f"{path}: {name!r} has to be a DAG or a Graph, {found}{did_you_mean(name, known)}"
        )
    return thing


def _is_graph(thing: Any) -> bool:
    from dagger_dsl.model.graph import Graph

    return isinstance(thing, Graph)


def _is_workflow(thing: Any) -> bool:
    from dagger_dsl.engine.workflow import Workflow

    return isinstance(thing, Workflow) or _is_graph(thing)


def _registry_of(module: ModuleType) -> Registry:
    """Return the actions of a module, and those that its DAGs were built with."""
    from dagger_dsl.registry import as_registry

    registry = as_registry(module)
    for dag in _dags_of(module):
        dag.register_all()
        take(registry, dag.registry)
    return registry


def _dags_of(module: ModuleType) -> list[Workflow]:
    from dagger_dsl.engine.workflow import Workflow

    return [thing for thing in vars(module).values() if isinstance(thing, Workflow)]


def take(registry: Registry, other: Registry) -> None:
    """Take the actions and workflows of another registry, in the place of what is called so."""
    for name in other.list_actions():
        registry.register(other[name], replace=True)
    for name, workflow in other.workflows.items():
        registry.register_workflow(workflow, name, replace=True)
    registry.bring_node_hooks(other)


def _take_hooks(registry: Registry, other: Registry) -> None:
    """Take the hooks of another registry, in its order; a name that is known keeps its place."""
    for name, hook in other.all_hooks().items():
        registry.register_hook(name, hook, replace=True)


def load_module(text: str) -> ModuleType:
    """Import a .py file by its path, or a module by its name.

    A file is imported under its stem, so that values of its classes are found again by the same
    name; its folder is where its own imports are looked up first.

    Raises:
        ConfigurationError: There is no such file or module.
        BrokenCode: It cannot be imported.
    """
    if text.endswith(".py") or os.sep in text:
        path = Path(text).resolve()
        if not path.is_file():
            raise ConfigurationError(f"there is no file {text}; give a .py file or a module's name")
        return _import_file(path)
    if not text or text.startswith("."):
        raise ConfigurationError(f"{text!r} is no module's name; give one, or a .py file")
    _look_in(os.getcwd())
    try:
        return importlib.import_module(text)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and _is_missing(error, text):
            hint = f"; did you mean {text}.py?" if Path(f"{text}.py").is_file() else ""
            raise ConfigurationError(f"there is no module {text!r}{hint}") from None
        raise BrokenCode(f"importing {text} failed") from error


def _is_missing(error: ModuleNotFoundError, text: str) -> bool:
    """Whether it is this module (or a package it is in) that is missing, not one it imports."""
    return error.name is not None and (text == error.name or text.startswith(f"{error.name}."))


def _import_file(path: Path) -> ModuleType:
    _look_in(str(path.parent))
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if known is not None or name in sys.stdlib_module_names:
        name = f"actions_{name}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise BrokenCode(f"importing {path} failed") from error
    return module


def _look_in(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def read_inputs(given: Iterable[str]) -> dict[str, Any]:
    """Return the inputs that ``NAME=VALUE`` texts mean.

    A value is JSON where it is JSON, else the text itself; ``@file.json`` is read from a file.

    Raises:
        ConfigurationError: A text is malformed, a name is given twice, or a file cannot be read.
    """
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"an input is written NAME=VALUE, not {text!r}")
        if name in values:
            raise ConfigurationError(f"input {name!r} is given twice")
        values[name] = _from_file(name, value[1:]) if value.startswith("@") else read_value(value)
    return values


def input_names(graph: Graph) -> list[str]:
    """Return the inputs of a graph: those it declares, then those its nodes refer to."""
    names = dict.fromkeys(graph.inputs)
    for node in graph.nodes.values():
        names |= dict.fromkeys(name for _, name in _taken(node))
    return list(names)


def _taken(node: Node) -> Iterator[tuple[str, str]]:
    """Yield each parameter of a node that is a graph input, with the input's name."""
    for each in node.inputs:
        if each.source is not None and each.source[0] == "inputs":
            yield each.name, each.source[1]


def missing_inputs(graph: Graph, given: Iterable[str]) -> list[str]:
    """Return the inputs that have no default and are not given."""
    missing = []
    for name in input_names(graph):
        declared = graph.inputs.get(name)
        optional = declared is not None and (declared.default is not None or not declared.required)
        if name not in given and not optional:
            missing.append(name)
    return missing


def misread_inputs(
    graph: Graph, registry: Registry, given: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """Yield each input that was read as JSON and fits only as the text it was written as.

    Args:
        graph: Whose inputs they are.
        registry: Where its actions are looked up.
        given: What the command line gives, ``NAME=VALUE``.
    """
    for each in given:
        name, _, text = each.partition("=")
        value = read_value(text)
        if not text.startswith("@") and type(value) is not str:
            faults = _faults(graph, registry, name)
            if any(fault(value) and not fault(text) for fault in faults):
                yield name, text


def _faults(graph: Graph, registry: Registry, name: str) -> Iterator[Callable[[Any], str | None]]:
    """Yield what checks the values of one input."""
    from dagger_dsl.model.mapped import mapped_misfit
    from dagger_dsl.model.schema import schema_fault

    declared = graph.inputs.get(name)
    if declared is not None and declared.schema is not None:
        schema = declared.schema.value
        yield lambda value: schema_fault(schema, value, name)
    for node in graph.nodes.values():
        nested = node.subgraph
        action = registry.get(node.action) if nested is None else registry.get_workflow(nested)
        for parameter, source in _taken(node):
            if action is not None and source == name:
                levels = (node.map_depth or 1) if node.map_over == parameter else 0
                hint = action.hints().get(parameter, Any)
                yield partial(mapped_misfit, item=hint, depth=levels, path=parameter)


def read_value(text: str) -> Any:
    """Return the value that a text is: JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


@contextmanager
def text_hint(value: Any, text: str) -> Iterator[None]:
    """Say in an error that refuses a value how the text is written that it may have been meant as.

    Args:
        value: What `read_value` made of *text*.
        text: What was given.
    """
    try:
        yield
    except InputValidationError as error:
        if isinstance(value, str):
            raise
        as_text = shlex.quote(json.dumps(text, ensure_ascii=False))
        raise InputValidationError(f"{error}; a text is written as {as_text}") from error


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _from_file(name: str, path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise ConfigurationError(
            f"input {name!r}: {path} cannot be read: {error.strerror or error}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"input {name!r}: {path} is not JSON: {error}") from error
