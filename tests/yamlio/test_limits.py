"""Hostile and large texts: answered within seconds and without much memory, whatever they hold."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.errors import Problem, YamlError
from dagger_dsl.yamlio import Limits, load_document, load_yaml

SECONDS, MEGABYTES = 2.0, 300.0
MIB = 2**20

# Runs in a process of its own: the peak memory of this one would tell nothing.
CHILD = """
import json, sys, time
from dagger_dsl.errors import DaggerError
from dagger_dsl.yamlio import load_yaml
text = sys.stdin.buffer.read()
start = time.process_time()  # this process alone counts, not what runs beside it
try:
    graph = load_yaml(text)
    graph.validate()
    answer = f"{len(graph.nodes)} nodes"
except DaggerError as error:
    answer = f"{type(error).__name__}: {error}"[:300]
seconds = time.process_time() - start
# Not ru_maxrss: a process inherits that of the one that started it.
with open('/proc/self/status') as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith('VmHWM')) / 1024
print(json.dumps([answer, seconds, peak]))
"""


def answered(text: str | bytes) -> tuple[str, float, float]:
    """Return what a fresh process says to *text*, its CPU seconds and its peak megabytes."""
    data = text.encode() if isinstance(text, str) else text
    done = subprocess.run([sys.executable, "-c", CHILD], input=data, stdout=-1, check=True)
    answer, seconds, peak = json.loads(done.stdout)
    return answer, seconds, peak


def laughs() -> str:
    lines = ["name: lol", "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    return "\n".join([*lines, "nodes: []"])


def merges() -> str:
    lines = ["name: bomb", "m0: &m0 {k: 1}"]
    lines += [f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}" for i in range(1, 10)]
    return "\n".join([*lines, "nodes: []"])


def chain(length: int) -> str:
    nodes = ["  - {id: n0, action: step}\n"]
    nodes += [
        f"  - id: n{i}\n    action: step\n    dependencies: [n{i - 1}]\n    timeout: 30\n"
        for i in range(1, length)
    ]
    return "name: chain\nnodes:\n" + "".join(nodes)


def ladder(layers: int, width: int) -> str:
    lines = ["name: ladder", "nodes:"]
    for layer in range(layers):
        before = ", ".join(f"n{layer - 1}_{i}" for i in range(width)) if layer else ""
        for i in range(width):
            lines += [f"  - id: n{layer}_{i}", "    action: step", f"    dependencies: [{before}]"]
    return "\n".join(lines)


def head(value: str) -> str:
    return f"name: x\nnodes:\n  - id: a\n    action: f\n    metadata: {value}\n"


HOSTILE: dict[str, tuple[Callable[[], str | bytes], str]] = {
    "deep brackets": (lambda: head("[" * 10_000 + "]" * 10_000), "nested deeper than 40 levels"),
    "deep braces": (lambda: head("{a: " * 10_000 + "1" + "}" * 10_000), "nested deeper than"),
    "deep dashes": (lambda: "- " * 10_000 + "a", "nested deeper than"),
    "deep indentation": (
        lambda: "".join(" " * i + "a:\n" for i in range(1_200)),
        "nested deeper than",
    ),
    "deep question marks": (lambda: "? " * 10_000 + "a", "nested deeper than"),
    "deep lines": (lambda: head("[\n" * 10_000), "nested deeper than"),
    "billion laughs": (laughs, "anchors and aliases are not read"),
    "merge keys": (merges, "anchors and aliases are not read"),
    "a list in itself": (lambda: head("&a [*a]"), "aliases are not read"),
    "a mapping in itself": (lambda: "&a {name: x, nodes: *a}", "aliases are not read"),
    "python object": (
        lambda: head("!!python/object/apply:os.system ['true']"),
        "python/object/apply:os.system' is not read",
    ),
    "endless tag": (lambda: head("!" + "a" * 900_000 + " x"), "tag is too long"),
    "endless integer": (lambda: head("{a: " + "9" * 5_000 + "}"), "5000 characters is too long"),
    "endless hexadecimal": (lambda: head("{a: 0x" + "f" * 900_000 + "}"), "is too long"),
    "odd date": (lambda: head("{a: 2023-13-45}"), "1 nodes"),
    "NUL": (lambda: b"name: \0", "the character U+0000"),
    "random bytes": (lambda: bytes(range(128, 256)) * 10, "the bytes are not UTF-8"),
    "too large": (lambda: "#" * (MIB + 1), "more than the limit of 1,048,576"),
    "far too large": (lambda: b"#" * (40 * MIB), "more than the limit of 1,048,576"),
    "quotes": (lambda: "'" * MIB, "a workflow is a mapping"),
    "spaces": (lambda: " " * MIB, "the text is empty"),
    "line breaks": (lambda: "\n" * MIB, "the text is empty"),
    "tabs": (lambda: "\t" * MIB, "cannot start any token"),
    "one long line": (lambda: "name: " + "a " * (MIB // 2 - 10), "needs 'nodes'"),
    "unknown words": (
        lambda: (
            "name: x\nnodes:\n"
            + "".join(f"- {{id: n{i}, action: a, dependencies: [m{i}]}}\n" for i in range(3_000))
        ),
        "101 problems",
    ),
    "unknown keys": (
        lambda: "name: x\nnodes: []\n" + "".join(f"key{i}: 1\n" for i in range(10_000)),
        "0 nodes",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_answered_in_time_and_memory(name: str) -> None:
    make, expected = HOSTILE[name]
    text = make()
    answer, seconds, peak = answered(text)
    assert expected in answer
    assert seconds < SECONDS * (5 if len(text) > MIB // 2 else 1)
    assert peak < MEGABYTES


@pytest.mark.parametrize(
    ("text", "expected"),
    [(chain(2_000), "2000 nodes"), (ladder(40, 10), "400 nodes")],
    ids=["chain", "ladder"],
)
def test_large_graphs_load_in_time_and_memory(text: str, expected: str) -> None:
    answer, seconds, peak = answered(text)
    assert answer == expected
    assert seconds < SECONDS
    assert peak < MEGABYTES


@pytest.mark.slow
def test_a_whole_megabyte_loads_in_a_few_seconds() -> None:
    text = "name: x\nnodes:\n" + "".join(
        f"  - id: node_{i}\n    action: step\n    description: {'words ' * 8}\n    timeout: 30\n"
        for i in range(8_900)
    )
    assert 0.9 * MIB < len(text) <= MIB
    answer, seconds, peak = answered(text)
    assert answer == "8900 nodes"
    assert seconds < 10 * SECONDS
    assert peak < MEGABYTES


def test_limits_can_be_set() -> None:
    text = "name: x\nnodes: [{id: a, action: f, metadata: {a: [1, 2]}}]"
    assert load_yaml(text, limits=Limits(size=len(text), depth=6, values=10))
    for limits, message in (
        (Limits(size=len(text) - 1), "bytes, more than the limit of 57"),
        (Limits(depth=4), "nested deeper than 4 levels"),
        (Limits(values=9), "more than 9 values"),
    ):
        with pytest.raises(YamlError, match=message):
            load_yaml(text, limits=limits)
        with pytest.raises(YamlError, match=message):
            load_document(text, limits=limits)


def test_a_deeper_limit_reaches_as_deep_as_values_may_nest() -> None:
    limits = Limits(depth=5_000)
    nested = "[" * 100 + "]" * 100
    assert load_yaml(head(f"{{a: {nested}}}"), limits=limits).nodes["a"].metadata
    with pytest.raises(YamlError, match=r":5:15: .*(nest|deep)"):
        load_yaml(head("{a: " + "[\n" * 1_000 + "]" * 1_000 + "}"), limits=limits)


@given(st.text("ab:-?[]{}&*!|>'\"%@`#,\n\t \\~<=.0123é\x85\u2028\ufeff", max_size=60))
def test_any_text_loads_or_is_refused_with_its_line(text: str) -> None:
    problems: tuple[Problem, ...] = ()
    try:
        load_yaml(text, name="any.yaml")
    except YamlError as error:  # anything else is a fault
        problems = error.problems
    for problem in problems:
        assert problem.place.file == "any.yaml"
        assert problem.place.line is not None
        assert problem.place.column is not None


@given(st.binary(max_size=60))
def test_any_bytes_load_or_are_refused(data: bytes) -> None:
    with pytest.raises(YamlError):
        load_yaml(data)
