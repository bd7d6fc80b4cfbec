"""Lines that work, for the help of each command; the files are those that `init` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["EXAMPLES", "epilog"]

#: By command, lines with what they do.
EXAMPLES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "init": (
        ("dagger-dsl init flows", "a project in the folder flows"),
        ("dagger-dsl init", "the same in this folder"),
    ),
    "run": (
        ("dagger-dsl run pipeline.py", "the one DAG of the file"),
        ("dagger-dsl run pipeline.py:dag -i count=8 --run-id r1", "an input, and a name"),
        ("dagger-dsl run pipeline.py -i count=9 --dry-run", "the plan; nothing is called"),
    ),
    "validate": (
        ("dagger-dsl validate pipeline.py", "what is wrong with it"),
        ("dagger-dsl validate pipeline.py:dag --json", "for programs"),
    ),
    "dot": (
        ("dagger-dsl dot pipeline.py", "DOT on standard output"),
        ("dagger-dsl dot r1 -o run.dot", "a run with its states, to a file"),
    ),
    "resume": (
        ("dagger-dsl resume r1 --actions pipeline.py", "what is completed is not called again"),
        ("dagger-dsl resume r1 --actions pipeline.py --workers 2", "two nodes at a time"),
    ),
    "recover": (
        ("dagger-dsl recover --actions pipeline.py", "all runs whose process died"),
        ("dagger-dsl recover --dag readings --actions pipeline.py", "those of one graph"),
    ),
    "runs": (
        ("dagger-dsl runs", "the newest 20"),
        ("dagger-dsl runs --status failed --limit 5", "the newest failures"),
        ("dagger-dsl runs --dag readings --json", "for programs"),
    ),
    "show": (
        ("dagger-dsl show r1", "its nodes and outputs"),
        ("dagger-dsl show r1 --node fetch", "one node: inputs, attempts, value, error"),
        ("dagger-dsl show r1 --html run.html", "a page for a browser"),
    ),
    "logs": (
        ("dagger-dsl logs r1", "what happened, in order"),
        ("dagger-dsl logs r1 --node fetch", "to one node"),
        ("dagger-dsl logs r1 --follow", "until the run stands still"),
    ),
    "watch": (
        ("dagger-dsl watch r1", "ends with the run's exit code"),
        ("dagger-dsl watch r1 --json", "the report, as soon as it stands still"),
    ),
    "explain": (
        ("dagger-dsl explain r1 fetch", "why it is as it is"),
        ("dagger-dsl explain r1 summarise --json", "for programs"),
    ),
    "pause": (
        ("dagger-dsl pause r1", "what runs may end"),
        ('dagger-dsl pause r1 --branch clean --reason "look first"', "from one node on"),
    ),
    "cancel": (
        ('dagger-dsl cancel r1 --reason "wrong input"', "the run"),
        ("dagger-dsl cancel r1 --branch clean", "from one node on"),
    ),
    "answer": (
        ("dagger-dsl answer r1 ask true", "a value as JSON"),
        ('dagger-dsl answer r1 ask "in a week" --by anna', "a text, and who says so"),
    ),
    "approve": (
        ("dagger-dsl approve r1 clean", "a branch that is paused"),
        ("dagger-dsl approve r1 clean --by anna", "and who says so"),
    ),
    "reject": (
        ("dagger-dsl reject r1 clean", "cancels the branch"),
        ('dagger-dsl reject r1 clean --reason "too dear" --by anna', "and why"),
    ),
    "worker": (
        ("dagger-dsl worker --actions agents.py", "tasks of all agents of the file"),
        ("dagger-dsl worker --actions agents.py --agents reader,writer -v", "of two of them"),
        ("dagger-dsl worker --actions agents.py --concurrency 8 --drain", "until nothing is left"),
    ),
    "jobs": (
        ("dagger-dsl jobs", "the newest 20"),
        ("dagger-dsl jobs --status running --json", "for programs"),
    ),
    "job": (
        ("dagger-dsl job show report", "its tasks, and where each stands"),
        ("dagger-dsl job cancel report", "with all its tasks"),
    ),
    "job show": (
        ("dagger-dsl job show report", "its tasks, and where each stands"),
        ("dagger-dsl job show report --all", "every task of a job of many"),
        ("dagger-dsl job show report --html report.html", "a page for a browser"),
        ("dagger-dsl job show report --json", "for programs"),
    ),
    "job cancel": (('dagger-dsl job cancel report --reason "wrong question"', "and why"),),
    "task": (
        ("dagger-dsl task show read-1", "its input, output, error and history"),
        ("dagger-dsl task retry read-1", "and what failed for it"),
    ),
    "task show": (("dagger-dsl task show read-1 --json", "for programs"),),
    "task answer": (
        ("dagger-dsl task answer read-1 1984 --by ann", "what it is called with"),
        ("dagger-dsl task answer read-1 1984 --question 2", "if that is what it asks still"),
    ),
    "task retry": (('dagger-dsl task retry read-1 --reason "it was called"', "and why"),),
    "task cancel": (('dagger-dsl task cancel read-1 --reason "too slow"', "and why"),),
    "task pause": (("dagger-dsl task pause read-1", "it does not begin now"),),
    "task resume": (("dagger-dsl task resume read-1", "it may begin"),),
    "task accept": (("dagger-dsl task accept write", "its result is final"),),
    "task reject": (('dagger-dsl task reject write --reason "no sources"', "and why"),),
    "channels": (
        ("dagger-dsl channels", "what waits where, and for whom"),
        ("dagger-dsl channels --watch", "and again, until Ctrl-C"),
        ("dagger-dsl channels --json", "for programs"),
    ),
    "publish": (
        ("""dagger-dsl publish orders.new '{"n": 1}'""", "a payload as JSON"),
        ("dagger-dsl publish orders.new 7 --key ann --id order-7", "in order of its key, once"),
    ),
    "deadletters": (
        ("dagger-dsl deadletters list", "what was given up, by whom, and why"),
        ("dagger-dsl deadletters replay --agent mailer", "once it is mended"),
        ("dagger-dsl deadletters discard order-7", "one message"),
    ),
    "deadletters list": (("dagger-dsl deadletters list --json", "for programs"),),
    "deadletters replay": (("dagger-dsl deadletters replay", "all of them"),),
    "deadletters discard": (("dagger-dsl deadletters discard --agent mailer", "those of one"),),
    "db": (
        ("dagger-dsl db stats", "sizes and numbers of rows"),
        ("dagger-dsl db prune --keep-last 100 --dry-run", "what would be deleted"),
        ("dagger-dsl db backup copy.db", "also while runs go on"),
    ),
    "db stats": (("dagger-dsl db stats --json", "for programs"),),
    "db prune": (
        ("dagger-dsl db prune --older-than 30 --dry-run", "what would be deleted"),
        ("dagger-dsl db prune --older-than 30 --keep-last 10", "but keep ten of each graph"),
    ),
    "db backup": (("dagger-dsl db backup backup.db", "a whole copy at one moment"),),
    "db vacuum": (("dagger-dsl db vacuum", "after much was deleted"),),
    "doctor": (
        ("dagger-dsl doctor", "versions, extras, the database"),
        ("dagger-dsl doctor --artifacts", "and reads every artifact"),
    ),
    "completion": (
        ('eval "$(dagger-dsl completion bash)"', "in ~/.bashrc"),
        ('eval "$(dagger-dsl completion zsh)"', "in ~/.zshrc, after compinit"),
        ("dagger-dsl completion fish | source", "in ~/.config/fish/config.fish"),
    ),
}


def epilog(command: str, more: str = "") -> str:
    """Return what stands below the help of a command: its examples, then *more*."""
    lines = EXAMPLES[command]
    width = max(len(line) for line, _ in lines)
    told = "\n".join(f"  {line:{width}}  # {what}" for line, what in lines)
    return f"examples:\n{told}\n" + (f"\n{more}" if more else "")
