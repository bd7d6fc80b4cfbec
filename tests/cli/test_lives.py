"""Error handlers and hooks of a DAG, where a command goes on with its run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

FLOWS_PY = """\
from pathlib import Path

from dagger_dsl import DAG

HERE = Path(__file__).parent
dag = DAG("flow")


def note(text):
    with (HERE / "calls.txt").open("a") as file:
        file.write(text + "\\n")


@dag.node
def load() -> int:
    note("load")
    return 1


@dag.node
def risky(load: int) -> int:
    raise ValueError("never")


load >> risky
dag.set_default_hooks(cleanup=lambda node, context: note(f"clean {node.name}"))
dag.set_node_hooks("risky", pre_execute=lambda node, inputs, context: {"load": 7})
dag.set_node_error_handler(
    "risky", lambda node, inputs, error: 5 if (HERE / "works").exists() else None
)
"""


@pytest.mark.row("H18", "M16")
def test_a_resume_with_the_file_of_the_dag_has_them(cli: Cli, folder: Path) -> None:
    (folder / "flows.py").write_text(FLOWS_PY)
    done = cli("run", "flows.py:dag", "--db", "sqlite:runs.db")
    assert done.code == 1, done.err
    found = re.search(r"dagger-dsl resume (\S+) --actions flows\.py", done.out)
    assert found is not None
    (folder / "works").touch()
    again = cli("resume", found[1], "--actions", "flows.py", "--db", "sqlite:runs.db")
    assert again.code == 0, again.err
    assert "risky = 5" in again.out
    calls = (folder / "calls.txt").read_text().split("\n")
    assert calls == ["load", "clean load", "clean risky", "clean risky", ""]
