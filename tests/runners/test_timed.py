"""Calls of sync functions that may take so many seconds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dagger_dsl.runners.timed import call_within

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0


class Late(Exception):
    pass


@pytest.mark.parametrize("error", [None, ValueError("late"), TimeoutError("its own")])
@pytest.mark.parametrize("took", [LONG - 1, LONG])
def test_a_call_that_ends_after_its_time_has_run_out_of_it(
    monkeypatch: pytest.MonkeyPatch, took: float, error: Exception | None
) -> None:
    """Who waits may wake only once it has ended, as of a call that holds the interpreter."""
    now = [0.0]
    monkeypatch.setattr("dagger_dsl.runners.timed.time", SimpleNamespace(monotonic=lambda: now[0]))

    def call() -> str:
        now[0] += took
        if error is not None:
            raise error
        return "done"

    def within() -> str:
        return call_within(call, LONG, "call", Late)

    if took >= LONG:
        with pytest.raises(Late):
            within()
    elif error is not None:
        with pytest.raises(type(error), match=str(error)):
            within()
    else:
        assert within() == "done"
