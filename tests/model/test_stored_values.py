"""Values of tasks that are decoded when they are first asked for."""

from __future__ import annotations

import copy
import pickle
from typing import Any, ClassVar

import attrs
import pytest

from dagger_dsl.errors import DecodingError, StoreDamaged
from dagger_dsl.model.stored_values import Shown, StoredValue, WithStoredValues, for_people


@attrs.frozen
class Two(WithStoredValues):
    """A value that is there, and one that is stored."""

    _may_be_stored: ClassVar = ("late",)

    plain: int
    late: Any = None


class Source:
    """A stored value that counts how often it is decoded."""

    def __init__(self, value: Any = 7, error: Exception | None = None) -> None:
        self.value, self.error, self.asked = value, error, 0
        self.stored = StoredValue(lambda *_: b'{"$type":"m:T"}', self.decode, b"7", None)

    def decode(self, inline: bytes | None, artifact_id: str | None) -> Any:
        assert (inline, artifact_id) == (b"7", None)
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.value


def test_a_value_is_decoded_once_and_only_when_it_is_asked_for() -> None:
    source = Source()
    two = Two(1, source.stored)
    assert (two.plain, source.asked) == (1, 0)
    assert (two.late, two.late, source.asked) == (7, 7, 1)


def test_a_value_that_is_not_there_yet_is_the_same_in_every_other_way() -> None:
    def late() -> Two:
        return Two(1, Source([1, 2]).stored)

    plain = Two(1, [1, 2])
    assert late() == plain
    assert repr(late()) == repr(plain)
    assert attrs.asdict(late()) == attrs.asdict(plain)
    assert pickle.loads(pickle.dumps(late())) == plain
    assert copy.copy(late()) == copy.deepcopy(late()) == plain
    assert attrs.evolve(late(), plain=2) == Two(2, [1, 2])
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        late().late = 3  # type: ignore[misc]  # on purpose
    with pytest.raises(AttributeError, match="'Two' object has no attribute 'later'"):
        _ = late().later  # type: ignore[attr-defined]  # on purpose


def test_what_cannot_be_decoded_says_so_each_time_and_is_shown_as_it_is_stored() -> None:
    source = Source(error=DecodingError("no such type"))
    two = Two(1, source.stored)
    for _ in range(2):
        with pytest.raises(DecodingError, match="no such type"):
            _ = two.late
    assert for_people(two, "plain") == Shown(1)
    shown = for_people(two, "late")
    assert shown == Shown({"$type": "m:T"}, "no such type")
    assert (shown.plain, for_people(two, "plain").plain) == ({"$type": "m:T"}, 1)


def test_what_cannot_even_be_read_says_why() -> None:
    def missing(inline: bytes | None, artifact_id: str | None) -> Any:
        raise StoreDamaged("the file is missing")

    two = Two(1, StoredValue(missing, missing, None, "a"))
    assert for_people(two, "late") == Shown(None, "the file is missing")
