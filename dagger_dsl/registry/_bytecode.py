"""A code object as text that layout does not change, and the names that it uses.

Two functions have the same text when they do the same. Comments, docstrings, line breaks and
annotations leave no trace; constants, names and every step of the logic do. Bytecode is read and
not the source file: it is what runs, whatever was written to the file since, and lambdas, notebook
cells and text given to `exec` have it too. The price is that another minor version of Python,
which compiles otherwise, gives other texts.

The compiler lets line numbers decide a few things that change nothing: no-operations it leaves
behind, jumps to jumps, and which loads are joined into one instruction. They are undone here. Of
the 8,000 functions in the standard library's modules, as they are written and as one statement a
line without docstrings, the texts agree for all under Python 3.12 and 3.13, and for all but three
under 3.11.
"""

from __future__ import annotations

import functools
import types
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from dis import Instruction

__all__ = ["Shape", "shape_of"]

#: Flags that change what a call gives: variable arguments, generators, coroutines.
_FLAGS: Final = 0x4 | 0x8 | 0x20 | 0x80 | 0x100 | 0x200

_SILENT: Final = frozenset({"EXTENDED_ARG", "NOP", "CACHE"})

_INVERSE: Final = {
    "POP_JUMP_IF_TRUE": "POP_JUMP_IF_FALSE",
    "POP_JUMP_IF_FALSE": "POP_JUMP_IF_TRUE",
    "POP_JUMP_IF_NONE": "POP_JUMP_IF_NOT_NONE",
    "POP_JUMP_IF_NOT_NONE": "POP_JUMP_IF_NONE",
}

#: What a class body says about its place, in the words of its bytecode.
_PLACE: Final = frozenset({"__doc__", "__qualname__", "__firstlineno__", "__static_attributes__"})

_READS: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_LOOKS_UP: Final = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_REBINDS: Final = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_REBINDS_CELL: Final = frozenset({"STORE_DEREF", "DELETE_DEREF"})


@attrs.frozen
class Shape:
    """What a function does, and the names it does it with, functions inside of it included.

    Attributes:
        text: The steps.
        reads: Globals that are read, sorted.
        rebinds: Globals that are written.
        rebinds_cells: Variables of an enclosing function that are written.
        attributes: Names that are looked up on something, sorted.
        imports: ``(level, module, names)`` of each import statement.
    """

    text: str
    reads: tuple[str, ...]
    rebinds: frozenset[str]
    rebinds_cells: frozenset[str]
    attributes: tuple[str, ...]
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]


@functools.lru_cache(maxsize=4096)
def shape_of(code: types.CodeType) -> Shape:
    """Return the shape of a code object."""
    reader = _Reader()
    waiting = [code]
    while waiting:
        each = waiting.pop()
        reader.read(each)
        inner = [const for const in each.co_consts if isinstance(const, types.CodeType)]
        waiting += reversed(inner)
    return Shape(
        "\n".join(reader.lines),
        tuple(sorted(reader.reads)),
        frozenset(reader.rebinds),
        frozenset(reader.rebinds_cells),
        tuple(sorted(reader.attributes)),
        tuple(reader.imports),
    )


class _Reader:
    """Gathers what the code objects of one function say."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.reads: set[str] = set()
        self.rebinds: set[str] = set()
        self.rebinds_cells: set[str] = set()
        self.attributes: set[str] = set()
        self.imports: list[tuple[int, str, tuple[str, ...]]] = []

    def read(self, code: types.CodeType) -> None:
        import dis  # only what is cached comes here

        steps = [each for each in dis.get_instructions(code) if each.opname not in _SILENT]
        count = code.co_argcount + code.co_kwonlyargcount
        self.lines.append(
            f"code {code.co_posonlyargcount} {code.co_argcount} {code.co_flags & _FLAGS} "
            f"{code.co_varnames[:count]} {code.co_freevars}"
        )
        self.note(code, steps)
        flow = _Flow(code, steps)
        self.lines += flow.lines()
        self.lines += flow.handlers()

    def note(self, code: types.CodeType, steps: list[Instruction]) -> None:
        for k, step in enumerate(steps):
            name = step.opname
            if name in _READS:
                self.reads.add(step.argval)
            elif name in _LOOKS_UP:
                self.attributes.add(step.argval)
            elif name in _REBINDS:
                self.rebinds.add(step.argval)
            elif name in _REBINDS_CELL and step.argval in code.co_freevars:
                self.rebinds_cells.add(step.argval)
            elif name == "IMPORT_NAME":
                # The two before it load how many levels up, and what of the module is wanted.
                level, wanted = steps[k - 2].argval, steps[k - 1].argval
                if not isinstance(level, int):
                    level = steps[k - 2].arg
                self.imports.append((level, step.argval, tuple(wanted or ())))


class _Flow:
    """The steps of one code object, with jumps led to where they end up."""

    def __init__(self, code: types.CodeType, steps: list[Instruction]) -> None:
        import dis

        self.code = code
        self.steps = steps
        self.offsets = [step.offset for step in steps]
        self.constants = frozenset(dis.hasconst)
        jumping = frozenset((*dis.hasjrel, *dis.hasjabs))
        self.targets: list[int | None] = [
            self.place(step.argval) if step.opcode in jumping else None for step in steps
        ]
        self.names = [_undirected(step.opname) for step in steps]
        self.labels: dict[int, int] = {}

    def place(self, offset: int) -> int:
        """Return the step at *offset*, or the first one after what was left out there."""
        return bisect_left(self.offsets, offset)

    def end_of(self, target: int) -> int:
        """Return where a jump to *target* ends up."""
        for _ in range(100):  # a loop with an empty body jumps to itself
            if target >= len(self.steps) or self.names[target] != "JUMP":
                break
            target = self.targets[target] or 0
        return target

    def label(self, target: int) -> str:
        return f"@{self.labels.setdefault(self.end_of(target), len(self.labels))}"

    def lines(self) -> list[str]:
        """Return the steps; where a jump leads is said below, once all are known."""
        found: list[tuple[int, str]] = []
        k = 0
        while k < len(self.steps):
            name, target, place = self.names[k], self.targets[k], k
            if target == k + 2 and name in _INVERSE and self.names[k + 1] == "JUMP":
                name, target = _INVERSE[name], self.targets[k + 1]  # it jumps over a jump
                k += 1
            k += 1
            if target is not None:
                found.append((place, f"{name} {self.label(target)}"))
            elif name == "STORE_NAME" and self.steps[place].argval in _PLACE:
                found.pop()
            else:
                found += [(place, text) for text in self.texts(name, self.steps[place])]
        self.places = [place for place, _ in found]
        marks: dict[int, str] = {}
        for target, label in self.labels.items():
            k = bisect_left(self.places, target)
            marks[k] = f"{marks.get(k, '')} :{label}"
        return [text + marks.get(k, "") for k, (_, text) in enumerate(found)]

    def texts(self, name: str, step: Instruction) -> list[str]:
        if step.opcode in self.constants:
            return [f"{name} {_constant(step.argval)}"]
        if isinstance(step.argval, tuple) and name.count("_FAST") == 2:
            # Two loads or stores in one, as 3.13 has them: LOAD_FAST_LOAD_FAST
            first, _, second = name.partition("_FAST_")
            return [f"{first}_FAST {step.argval[0]}", f"{second} {step.argval[1]}"]
        return [f"{name} {step.argrepr or step.arg}"]

    def handlers(self) -> list[str]:
        """Return which steps each ``try`` and ``with`` protects, and where its errors go."""
        import dis

        # Undocumented, but there is no other reader of the table in the library.
        entries: Any = getattr(dis.Bytecode(self.code), "exception_entries", ())
        found: list[tuple[int, int, str]] = []
        for each in entries:
            start, end, target = (
                bisect_left(self.places, self.place(offset))
                for offset in (each.start, each.end, each.target)
            )
            leads = f"{target} {each.depth} {each.lasti}"
            if found and found[-1][1:] == (start, leads):  # an entry goes on behind a left-out step
                start = found.pop()[0]
            if start < end:
                found.append((start, end, leads))
        return [f"try {start} {end} {leads}" for start, end, leads in found]


def _undirected(name: str) -> str:
    for direction in ("_FORWARD", "_BACKWARD", "_NO_INTERRUPT"):
        name = name.replace(direction, "")
    return "JUMP" if name == "JUMP_ABSOLUTE" else name


def _constant(value: Any) -> str:
    """Return the text of a constant; it tells 1, 1.0 and True apart, and 0.0 from -0.0."""
    kind = type(value)
    if kind is types.CodeType:
        return "<code>"  # it follows by itself, in the same order
    if kind is tuple:
        return f"({','.join(map(_constant, value))})"
    if kind is frozenset:
        return f"{{{','.join(sorted(map(_constant, value)))}}}"
    if kind is int:
        return f"int:{value:x}"  # repr() refuses the longest ones
    return f"{kind.__name__}:{value!r}"
