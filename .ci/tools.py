"""Small jobs of `.ci/run`, each a subcommand.

README.md marks what has to be true by a comment on the line before a fence: `<!-- ci: test -->` and
`<!-- ci: example -->` before its two commands, `<!-- runnable -->` before Python blocks, which run
in order as one script, `<!-- file: NAME -->` before files that it shows, and `<!-- ci: tour -->`
before shell blocks, which run in order beside these files.
"""

from __future__ import annotations

import re
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What the tests need beside pytest, and what conflicts with old versions of our dependencies.
CHECKERS = ("ruff", "mypy", "import-linter")


def marked_blocks(mark: str, text: str) -> list[str]:
    """Return the contents of the fences that follow `<!-- mark -->`."""
    fence = rf"^<!-- {re.escape(mark)} -->\n+^```[^\n]*\n(.*?)^```$"
    return re.findall(fence, text, flags=re.MULTILINE | re.DOTALL)


def readme(mark: str) -> str:
    """Return README's blocks under a mark, joined; at least one is required."""
    blocks = marked_blocks(mark, (ROOT / "README.md").read_text(encoding="utf-8"))
    if not blocks:
        raise SystemExit(f"README.md has no block after <!-- {mark} -->")
    return "\n".join(blocks)


def tour(folder: str) -> str:
    """Write README's files and its scripts, `tour.py` and `tour.sh`, to a folder."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files = {
        name: marked_blocks(f"file: {name}", text)[0]
        for name in re.findall(r"^<!-- file: ([\w.]+) -->$", text, flags=re.MULTILINE)
    }
    files |= {"tour.py": readme("runnable"), "tour.sh": f"set -euo pipefail\n{readme('ci: tour')}"}
    for name, content in files.items():
        (Path(folder) / name).write_text(content, encoding="utf-8")
    return f"{folder}: {', '.join(files)}"


def lower_bounds() -> str:
    """Return requirements with each core dependency at its bound, and the test runners."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = [requirement.replace(">=", "==", 1) for requirement in project["dependencies"]]
    if unbounded := [requirement for requirement in core if "==" not in requirement]:
        raise SystemExit(f"no lower bound: {', '.join(unbounded)}")
    tests = project["optional-dependencies"]["test"]
    return "\n".join([*core, *(name for name in tests if not name.startswith(CHECKERS))])


def notebook(path: str, write: str = "") -> str:
    """Execute a notebook from its own folder; a cell that raises ends this with its traceback.

    With ``--write`` as a second argument its outputs are written into it. Of a picture that is the
    SVG, which code-hosting pages show, and not the HTML, which they do not.
    """
    import nbformat
    from nbclient import NotebookClient

    content = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(Path(path).parent)}}
    NotebookClient(content, timeout=300, kernel_name="python3", resources=resources).execute()
    if write == "--write":
        for cell in content.cells:
            cell.metadata.pop("execution", None)
            for output in cell.get("outputs", ()):
                if "image/svg+xml" in output.get("data", ()):
                    for kind in ("text/html", "text/vnd.mermaid"):
                        output.data.pop(kind, None)
        nbformat.write(content, path)
    return f"{path}: {sum(cell.cell_type == 'code' for cell in content.cells)} cells executed"


def totals(folder: str) -> str:
    """Return the sum of all JUnit reports in a folder, in pytest's words."""
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for report in Path(folder).glob("*.xml"):
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            for name in counts:
                counts[name] += int(suite.get(name, 0))
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    return f"{passed} passed, {failed} failed, {counts['skipped']} skipped"


def failures(folder: str) -> str:
    """Return each failed test of all JUnit reports in a folder, with the end of what it said.

    The last lines of a long log may be all that somebody gets to see.
    """
    found = []
    for report in sorted(Path(folder).glob("*.xml")):
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            for fault in (*case.findall("failure"), *case.findall("error")):
                where = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
                lines = (fault.text or fault.get("message") or "").splitlines()
                told = [line[:200] for line in lines if line.startswith(("E ", ">"))][-12:]
                found.append("\n".join([f"FAILED in {report.stem}: {where}", *told]))
    return "\n\n".join(found)


COMMANDS = {
    "readme": readme,
    "tour": tour,
    "notebook": notebook,
    "totals": totals,
    "failures": failures,
}

if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    print(lower_bounds() if command == "lower-bounds" else COMMANDS[command](*arguments))
