"""Pyright reads the examples and the typing examples as mypy does; `.ci/run --full` installs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

pytest.importorskip("basedpyright", reason="is part of the extra `pyright`")


@pytest.mark.slow
@pytest.mark.row("R3")
def test_pyright_finds_nothing_wrong_in_the_examples(tmp_path: Path) -> None:
    settings = {
        "include": [str(EXAMPLES), str(ROOT / "tests" / "typing")],
        # Each example is imported from its own folder, or from the one above it.
        "extraPaths": [str(each) for each in (ROOT, EXAMPLES, *EXAMPLES.iterdir())],
        "pythonVersion": "3.11",
        "typeCheckingMode": "standard",  # what pyright does unasked
        "reportUnusedExpression": "none",  # `a >> b` says all by itself
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    words = ["-m", "basedpyright", "--project", str(tmp_path), "--pythonpath", sys.executable]
    done = subprocess.run(
        [sys.executable, *words, "--outputjson"], capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] >= 10
    assert found["generalDiagnostics"] == []
