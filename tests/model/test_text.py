"""Text from data, without what a terminal would obey."""

from __future__ import annotations

import time

from dagger_dsl.model.text import first_line, printable


def test_printable_keeps_text_and_lines_where_asked() -> None:
    assert printable("naïve ☃\n\ttext") == "naïve ☃  text"
    assert printable("two\r\nlines\tand", lines=True) == "two\nlines\tand"
    assert printable(3.5) == "3.5"
    assert printable("\x1b[1;31mred\x1b[0m!") == "red!"
    assert printable("\x1b]0;window title\x07!") == "!"


def test_what_no_terminal_would_end_keeps_its_text() -> None:
    assert printable("ValueError: na\x9eli chybu na \x9d 17") == "ValueError: nali chybu na  17"
    assert printable("\x1b]0;no end") == "0;no end"


def test_hostile_text_takes_no_time() -> None:
    begun = time.process_time()
    for sign in ("\x9d", "\x1b]", "\x1b[", "\x1b"):
        printable(sign * 200_000 + "x" * 200_000)
    assert time.process_time() - begun < 5


def test_the_first_line_is_the_first_that_says_something() -> None:
    assert first_line("\n  \n KeyError: 'x'\nmore") == "KeyError: 'x'"
    assert first_line("") == ""
    assert first_line("x" * 300, 10) == "x" * 9 + "…"
