"""Messages, channels and patterns."""

from __future__ import annotations

import re

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.messages import (
    Message,
    channel_problem,
    check_channel,
    check_patterns,
    matches,
)


def test_a_message_cannot_be_changed() -> None:
    message = Message("c", {"n": 1}, id="m")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        message.payload = 2  # type: ignore[misc]
    assert message == Message("c", {"n": 1}, id="m", number=7), "where it is kept says nothing"
    assert message.published_at.timestamp() == 0.0


@pytest.mark.parametrize("name", ["a", "a.b", "Größe.€", "a b", "a-b_c:d/e", "x" * 200])
def test_names_of_channels(name: str) -> None:
    assert check_channel(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "a.", ".a", "a..b", "a.*", "**", "a*", "x" * 201, "a\0b", "\ud800", 7, None, ["a"]],
)
def test_what_is_no_channel(name: object) -> None:
    with pytest.raises(ConfigurationError):
        check_channel(name)


@pytest.mark.parametrize("name", ["a*", "*a.b", "a.***", "", "a..*", 7])
def test_what_is_no_pattern(name: object) -> None:
    assert channel_problem(name, pattern=True) is not None
    with pytest.raises(ConfigurationError, match="subscribe: "):
        check_patterns([name], "subscribe")


def test_patterns_are_a_list_or_one() -> None:
    assert check_patterns("a.*", "subscribe") == ("a.*",)
    assert check_patterns(["b", "a", "b"], "subscribe") == ("b", "a")
    for wrong in (7, None, b"a", {"a": 1}):
        with pytest.raises(ConfigurationError, match="subscribe is a list of channels"):
            check_patterns(wrong, "subscribe")


@pytest.mark.row("J2")
@pytest.mark.parametrize(
    ("pattern", "channel", "does"),
    [
        ("a", "a", True),
        ("a", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.**", "a.b.c", True),
        ("a.**", "a", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("**", "a.b", True),
        ("**.z", "a.b.z", True),
        ("**.z", "z", False),
        ("a.*.c", "a.b.c", True),
        ("a.**.c", "a.b.b.c", True),
        ("a.**.c", "a.c", False),
        ("*.orders", "eu.orders", True),
        (".", "a", False),
    ],
)
def test_which_channels_a_pattern_stands_for(pattern: str, channel: str, does: bool) -> None:
    assert matches(pattern, channel) is does


PARTS = st.sampled_from(["a", "b", "ab"])


@given(
    st.lists(PARTS | st.sampled_from(["*", "**"]), min_size=1, max_size=6),
    st.lists(PARTS, min_size=1, max_size=7),
)
def test_patterns_match_as_regular_expressions_do(pattern: list[str], channel: list[str]) -> None:
    words = {"*": r"[^.]+", "**": r"[^.]+(?:\.[^.]+)*"}
    expression = r"\.".join(words.get(each, re.escape(each)) for each in pattern)
    wanted = re.fullmatch(expression, ".".join(channel)) is not None
    assert matches(".".join(pattern), ".".join(channel)) is wanted


def test_no_pattern_takes_long() -> None:
    assert not matches(".".join(["**"] * 60) + ".z", ".".join(["a"] * 90))
