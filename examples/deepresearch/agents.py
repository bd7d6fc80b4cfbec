"""The agents of a research: a librarian, a planner, evaluators, searchers, readers and a writer.

The planner takes a question apart. For each part there is an evaluator: it lets searchers look,
who give what they find to readers, and asks for more as long as the evidence is thin. None of them
knows beforehand how many tasks that will be. Who waits is parked without a thread, and is called
again from its beginning; what the others found stands in the database, so a kill costs no more than
the calls that were going on.

There is no model: the rules below stand where one would be asked, so that the same question always
comes to the same report.
"""

from __future__ import annotations

import os
import re
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from deepresearch import library

from dagger_dsl import NewTaskSpec, TaskContext, task_agent
from dagger_dsl.agents import NeedsMoreInfo, TaskType

#: What is about so much of a question counts as evidence.
ABOUT = 0.4
#: An evaluator is content with so many sections that cover so much of its question, ...
SOURCES, COVERED = 4, 0.75
#: ... and gives up after so many rounds.
ROUNDS = 3
#: So many of them are quoted, each in rather no fewer, and in no more characters.
QUOTED, SHORT, LONG = 3, 60, 320


class Note(TypedDict):
    """What a reader found in a section.

    Attributes:
        section: Where.
        quote: The paragraph that says most.
        covers: The words of the question that it has something to say about.
    """

    section: str
    quote: str
    covers: list[str]


class Finding(TypedDict):
    """What there is to say to a part of the question.

    Attributes:
        part: The question.
        notes: The evidence, the best first.
        missing: Words that nothing was found about.
        rounds: How often was searched.
    """

    part: str
    notes: list[Note]
    missing: list[str]
    rounds: int


def plan(question: str) -> list[NewTaskSpec]:
    """Return the tasks that a research begins with."""
    return [
        NewTaskSpec("librarian", description="Open the library", task_id="library"),
        NewTaskSpec(
            "planner",
            {"question": question},
            description=question,
            dependencies=["library"],
            task_type=TaskType.OBJECTIVE,
            acceptance_criteria=f"each part has {SOURCES} sources",
        ),
    ]


def _library(ctx: TaskContext) -> Path:
    """Return where the library is, after as much thought as the job asks for."""
    time.sleep(ctx.job.config.get("seconds", 0))
    return Path(ctx.job.config["library"])


@task_agent(retry=2)
def librarian(ctx: TaskContext) -> int:
    """Make the library, unless it is there."""
    return library.build(_library(ctx))


@task_agent
def planner(question: str, ctx: TaskContext) -> list[str]:
    """Take the question apart; each part is examined, and a report is written of all of them."""
    _library(ctx)
    parts = [f"{each.strip()}?" for each in question.split("?") if library.words(each)]
    if not parts:
        raise ValueError(f"{question!r} asks for nothing that could be searched for")
    examined = [
        ctx.add_task("evaluator", {"part": part}, description=part, task_type=TaskType.STORY)
        for part in parts
    ]
    ctx.add_task(
        "writer",
        {"question": question},
        description="Write the report",
        task_type=TaskType.TASK,
        dependencies=examined,
        on_dependency_failure="run",  # a part without an answer is one, too
    )
    return parts


@task_agent
def evaluator(part: str, ctx: TaskContext) -> Finding:
    """Judge the evidence; while it is thin, have more searched."""
    _library(ctx)
    rounds: list[list[Note]] = ctx.dependency_outputs()
    wanted = library.words(part)
    read = [note for found in rounds for note in found]
    notes, missing = weigh(wanted, read)
    if not rounds:
        ctx.block(on=[_ask(ctx, wanted, ())])
    thin = len(notes) < SOURCES or len(missing) > (1 - COVERED) * len(wanted)
    if thin and len(rounds) < ROUNDS:
        ctx.add_dependency(_ask(ctx, [*wanted, *_related(wanted, notes)], read))
        raise NeedsMoreInfo(f"{len(notes)} sources, nothing on {', '.join(missing) or 'the rest'}")
    return {"part": part, "notes": notes, "missing": missing, "rounds": len(rounds)}


def _ask(ctx: TaskContext, words: Sequence[str], read: Sequence[Note]) -> str:
    """Have words searched, in what was not read yet, and return the task's id."""
    query = " ".join(words)
    given = {
        "query": query,
        "part": ctx.task.input["part"],
        "seen": [note["section"] for note in read],
    }
    return ctx.add_task("searcher", given, description=f"Search: {query}")


def weigh(wanted: Sequence[str], notes: Sequence[Note]) -> tuple[list[Note], list[str]]:
    """Return the notes that count, the best first, and the words that none of them is about."""
    found: dict[str, Note] = {}
    for note in sorted(notes, key=lambda note: -len(note["covers"])):
        if len(note["covers"]) >= ABOUT * len(wanted):
            found.setdefault(note["quote"], note)  # some things are said in two places
    covered = {word for note in found.values() for word in note["covers"]}
    return list(found.values()), [word for word in wanted if word not in covered]


def _related(wanted: Sequence[str], notes: Sequence[Note]) -> list[str]:
    """Return words that go with the question in what was found: they lead to more of the kind."""
    asked = {library.stem(word) for word in wanted}
    near = Counter(word for note in notes for word in library.words(note["quote"]))
    return [word for word, _ in near.most_common() if library.stem(word) not in asked][:3]


@task_agent
def searcher(query: str, part: str, seen: list[str], ctx: TaskContext) -> list[Note]:
    """Look where something may stand, and have it read."""
    if ctx.dependencies:  # the readers, of an earlier call
        return ctx.dependency_outputs()
    found = library.search(_library(ctx), query, limit=4 + len(seen))
    names = [name for name in found if name not in seen][:4]
    if not names:
        return []
    ctx.block(
        on=[
            ctx.add_task("reader", {"section": name, "part": part}, description=name)
            for name in names
        ]
    )


@task_agent
def reader(section: str, part: str, ctx: TaskContext) -> Note:
    """Find the paragraph of a section that says most about a question."""
    text = library.read(_library(ctx), section).text
    wanted = library.words(part)
    paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n", text)]

    def about(paragraph: str) -> list[str]:
        stems = {library.stem(word) for word in library.words(paragraph)}
        return [word for word in wanted if library.stem(word) in stems]

    best = max(paragraphs, key=lambda each: (len(about(each)), len(each) >= SHORT))
    quote = textwrap.shorten(best, LONG, placeholder=" …")
    return {"section": section, "quote": quote, "covers": about(best)}


@task_agent
def writer(question: str, ctx: TaskContext) -> str:
    """Write the report, with a number for each source, and say what is not answered."""
    _library(ctx)
    findings: list[Finding | None] = ctx.dependency_outputs()
    path = Path(ctx.job.config["report"])
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(report(findings), encoding="utf-8")
    os.replace(unfinished, path)  # whoever reads it never sees half of it
    return str(path)


def report(findings: Sequence[Finding | None]) -> str:
    """Return findings as a page."""
    lines, numbers = ["# Report"], dict[str, int]()
    for finding in findings:
        if finding is None:
            lines += ["", "*A part of the question could not be examined.*"]
            continue
        lines += ["", f"## {finding['part']}", ""]
        for note in finding["notes"][:QUOTED]:
            number = numbers.setdefault(note["section"], len(numbers) + 1)
            lines.append(f"- {note['quote']} [{number}]")
        searched = f"{len(finding['notes'])} sections, {_times(finding['rounds'])}"
        left = ", ".join(finding["missing"])
        lines += ["", f"*Searched: {searched}{f'; nothing on: {left}' if left else ''}.*"]
    lines += ["", "## Sources", "", *(f"{n}. `{name}`" for name, n in numbers.items())]
    return "\n".join(lines) + "\n"


def _times(rounds: int) -> str:
    return "in one round" if rounds == 1 else f"in {rounds} rounds"
