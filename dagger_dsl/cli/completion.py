"""Completion of commands, options and ids: the shells' scripts, and the words that they ask for.

A script calls the hidden ``dagger-dsl __complete SHELL ...`` at each key, so nothing is loaded here
but the parser and `sqlite3`. It prints candidates, one a line, followed by a tab and what they mean
where the shell shows that, and at last ``:files`` where a file is wanted, else ``:words``.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from dagger_dsl.cli.parser import DEFAULT_DB, build, subparsers_of
from dagger_dsl.model.text import first_line, printable
from dagger_dsl.store import peek

__all__ = ["SCRIPTS", "complete", "completions"]

#: Values by the name of what they fill.
_RUNS: Final = ("run_id", "parent")
_NODES: Final = ("node", "branch")
_FILES: Final = ("file", "actions", "output", "html", "path", "folder", "db")

#: Characters that mean nothing to a shell.
_PLAIN: Final = re.compile(r"[\w@%+=:,./-]+")


class Candidates(NamedTuple):
    """What can stand where the cursor is.

    Attributes:
        words: Each with what it means.
        files: Whether files can, too.
    """

    words: list[tuple[str, str]]
    files: bool = False


def complete(arguments: Sequence[str]) -> int:
    """Print candidates for a shell and return the exit code.

    Args:
        arguments: ``bash LINE BREAKS`` (the line up to the cursor, and the characters that part
            words), ``zsh WORD...`` or ``fish WORD...`` (what follows the command; the last word is
            the one that is completed).
    """
    shell, *rest = arguments or ("",)
    if shell == "bash" and len(rest) == 2:
        words, quoted = _split(rest[0])
        found = completions(words)
        lines = list(_for_bash(found.words, words[-1], "" if quoted else rest[1], quoted))
    else:
        found = completions(rest or [""])
        lines = [f"{word}\t{what}" for word, what in found.words]
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    for line in (*lines, ":files" if found.files else ":words"):
        sys.stdout.write(f"{line}\n")
    return 0


def _split(line: str) -> tuple[list[str], bool]:
    """Return the words behind the command, and whether the last one is inside quotes."""
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(f"{line}x{closing}")
        except ValueError:
            continue
        return [*words[1:-1], words[-1][:-1]] if len(words) > 1 else [""], bool(closing)
    return [""], False


def _for_bash(
    words: Iterable[tuple[str, str]], current: str, breaks: str, quoted: bool
) -> Iterator[str]:
    """Yield what bash puts in the place of its own last word, safe to be run as a command."""
    parts = [place for place, sign in enumerate(current, 1) if sign in ":=" and sign in breaks]
    kept = parts[-1] if parts else 0
    for word, _ in words:
        if _PLAIN.fullmatch(word):
            yield word[kept:]
        elif not quoted and word[kept:]:
            yield shlex.quote(word[kept:])


def completions(words: Sequence[str]) -> Candidates:
    """Return what the last of some words can be.

    Args:
        words: What follows the command on its line.
    """
    parser = build()
    *before, current = words
    given: dict[str, str] = {}
    waiting: argparse.Action | None = None
    places = _places(parser)
    only_places = False
    for word in before:
        below = subparsers_of(parser)
        if waiting is not None:
            given[waiting.dest], waiting = word, None
        elif word == "--" and not only_places:
            only_places = True
        elif word.startswith("-") and len(word) > 1 and not only_places:
            name, equals, value = word.partition("=")
            option = parser._option_string_actions.get(name)
            if option is not None and option.nargs != 0:
                given[option.dest] = value
                waiting = None if equals else option
        elif below:
            if word not in below:
                return Candidates([])
            parser = below[word]
            places = _places(parser)
        elif places:
            given[places.pop(0).dest] = word
    if waiting is not None:
        return _matching(_values(waiting, given, current), current)
    if current.startswith("-") and not only_places:
        name, equals, value = current.partition("=")
        option = parser._option_string_actions.get(name)
        if not equals:
            return _matching(Candidates(list(_options(parser))), current)
        if option is None or option.nargs == 0:
            return Candidates([])
        found = _matching(_values(option, given, value), value)
        return Candidates([(f"{name}={word}", what) for word, what in found.words], found.files)
    below = subparsers_of(parser)
    if below:
        told = ((name, each.description or "") for name, each in below.items())
        return _matching(Candidates(list(told)), current)
    return _matching(_values(places[0], given, current), current) if places else Candidates([])


def _places(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [each for each in parser._actions if not each.option_strings]


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for each in parser._actions:
        what = "" if each.help is None else each.help.partition(" (default")[0]
        for name in each.option_strings:
            if name.startswith("--"):
                yield name, what


def _values(action: argparse.Action, given: Mapping[str, str], start: str) -> Candidates:
    """Return what can fill an argument."""
    database, name = given.get("db", DEFAULT_DB), action.dest
    if action.choices is not None:
        return Candidates([(str(each), "") for each in action.choices])
    if name in _RUNS:
        return Candidates(peek.run_ids(database, start))
    if name in _NODES:
        return Candidates(peek.node_ids(database, given.get("run_id", "")))
    if name == "dag":
        return Candidates([(each, "") for each in peek.graph_names(database)])
    if name == "file" and action.metavar == "FILE_OR_RUN_ID" and start:
        return Candidates(peek.run_ids(database, start), files=True)
    return Candidates([], files=name in _FILES)


def _matching(found: Candidates, start: str) -> Candidates:
    """Leave out what does not begin so, and what nobody can type."""
    return Candidates(
        [
            (word, first_line(what, 80))
            for word, what in found.words
            if word.startswith(start) and printable(word) == word and word[:1] not in ("", ":")
        ],
        found.files,
    )


_BASH: Final = r"""# Completion for bash; in ~/.bashrc: eval "$(dagger-dsl completion bash)"
_dagger_dsl() {
    local line command=${COMP_WORDS[0]}
    COMPREPLY=()
    type -P -- "$command" >/dev/null || command=dagger-dsl
    while IFS= read -r line; do
        case $line in
            :files) [[ ${#COMPREPLY[@]} -gt 0 ]] || compopt -o default 2>/dev/null ;;
            :words) ;;
            *) COMPREPLY+=("$line") ;;
        esac
    done < <("$command" __complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
}
complete -F _dagger_dsl dagger-dsl
"""

_ZSH: Final = r"""#compdef dagger-dsl
# Completion for zsh; in ~/.zshrc: eval "$(dagger-dsl completion zsh)"
_dagger_dsl() {
    local line command=dagger-dsl
    local -a found shown
    (( $+commands[${words[1]}] )) && command=${words[1]}
    while IFS= read -r line; do
        case $line in
            :files) _files ;;
            :words) ;;
            *) found+=("${line%%$'\t'*}"); shown+=("${line/$'\t'/  -- }") ;;
        esac
    done < <("$command" __complete zsh "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    (( $#found )) && compadd -l -d shown -a found
}
(( $+functions[compdef] )) && compdef _dagger_dsl dagger-dsl
"""

_FISH: Final = r"""# Completion for fish; in config.fish: dagger-dsl completion fish | source
function __dagger_dsl
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    for line in (dagger-dsl __complete fish $before[2..-1] "$current" 2>/dev/null)
        switch $line
            case :files
                __fish_complete_path "$current"
            case :words
            case '*'
                echo $line
        end
    end
end
complete -c dagger-dsl -f -a '(__dagger_dsl)'
"""

#: What ``completion SHELL`` prints.
SCRIPTS: Final[Mapping[str, str]] = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
