"""Ids that nobody hands out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dagger_dsl.model import ids as ids_module
from dagger_dsl.model.ids import new_id, new_ids


def test_ids_sort_by_the_time_they_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([1.0, 1.5, 1_700_000_000.0, 2**44 / 1000.0])
    monkeypatch.setattr(ids_module, "time", SimpleNamespace(time=lambda: next(moments)))
    ids = [new_id() for _ in range(4)]
    assert ids == sorted(ids)
    assert {len(each) for each in ids} == {26}
    assert ids[0].startswith("00000000Z8"), "a thousand milliseconds"


def test_ids_made_together_differ_and_are_in_their_order() -> None:
    ids = new_ids(5_000)
    assert len({*ids, new_id()}) == 5_001
    assert ids == sorted(ids)
    assert {len(each) for each in ids} == {26}
    assert {*"".join(each[10:] for each in ids)} == {*"0123456789ABCDEFGHJKMNPQRSTVWXYZ"}
    assert new_ids(0) == []
