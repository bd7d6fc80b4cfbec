"""What came to the record of a run since somebody last looked."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagger_dsl import DAG, NodeCtx, Registry, RetryPolicy, action
from dagger_dsl.engine.remote import RunControl
from dagger_dsl.errors import ConfigurationError, RunNotFound, StoreReadOnly
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.store.locks import run_offset
from dagger_dsl.store.news import read_graph, read_news, read_requests
from dagger_dsl.store.peek import file_of, graph_names, node_ids, run_ids
from dagger_dsl.store.storage import Store


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'state.db'}"


def make() -> DAG:
    """Return a workflow of two nodes, the first of which fails once."""

    @action(retry=RetryPolicy(max_attempts=2, base_delay=0.0))
    def first(ctx: NodeCtx) -> int:
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return 1

    @action
    def second(x: int) -> int:
        return x

    return DAG(first >> second, name="two")


def test_only_what_is_new_is_read(url: str) -> None:
    with Registry():
        make().run(database_url=url, run_id="r")
    with Store(f"{url}?mode=ro") as store:
        whole = read_news(store.database, "r")
        assert whole.status == "completed"
        told = [(each.node_id, each.attempt, each.state) for each in whole.attempts]
        assert told == [
            ("first", 1, "failed"),
            ("first", 2, "completed"),
            ("second", 1, "completed"),
        ]
        failed, again, _ = whole.attempts
        assert failed.error is not None
        assert failed.error["message"] == "not yet"
        assert failed.ended_at is not None
        assert again.started_at is not None
        assert failed.ended_at <= again.started_at
        assert {slot for _, slots in whole.released for slot in slots} == {0, 1}
        later = read_news(store.database, "r", again.seq)
        assert [each.node_id for each in later.attempts] == ["second"]
        assert not whole.more
        nothing = read_news(store.database, "r", whole.last)
        assert (nothing.attempts, nothing.commands, nothing.last) == ((), (), whole.last)


def test_a_long_record_is_read_piece_by_piece(url: str) -> None:
    with Registry():

        @action
        def items() -> list[int]:
            return list(range(20))

        @action
        def work(x: int) -> int:
            return x

        with DAG("mapped") as dag:
            work.map(items())
        dag.run(database_url=url, run_id="r")
    with Store(f"{url}?mode=ro") as store:
        whole = read_news(store.database, "r")
        pieces, after = [], 0
        while True:
            piece = read_news(store.database, "r", after, limit=3)
            pieces.append(piece)
            assert len(piece.attempts) + len(piece.commands) <= 3
            after = piece.last
            if not piece.more:
                break
        assert [each for piece in pieces for each in piece.attempts] == [*whole.attempts]
        assert [each for piece in pieces for each in piece.commands] == [*whole.commands]
        assert [each for piece in pieces for each in piece.released] == [*whole.released]
        assert after == whole.last


def test_a_graph_is_read_without_what_its_nodes_gave(url: str) -> None:
    with Registry():
        make().run(database_url=url, run_id="r")
    with Store(f"{url}?mode=ro") as store:
        graph, commands = read_graph(store.database, "r")
        assert list(graph.nodes) == ["first", "second"]
        assert commands == store.load_run("r").commands
        with pytest.raises(RunNotFound):
            read_graph(store.database, "nobody")


def test_requests_keep_who_sent_them_and_when(url: str) -> None:
    with Store(url) as store:
        journal = store.create_run(run_id="r", graph=Graph("g", [Node("a", "x")]), inputs={})
        number = store.send("r", '{"do": "cancel_run"}', "anna")
        (request,) = read_requests(store.database, "r").values()
        assert (request.number, request.sender) == (number, "anna")
        assert request.created_at.tzinfo is not None
        assert read_requests(store.database, "other") == {}
        journal.close()


def test_a_run_that_is_not_there_has_no_news(url: str) -> None:
    with Store(url) as store:
        with pytest.raises(RunNotFound):
            read_news(store.database, "nobody")
        with pytest.raises(ConfigurationError):
            read_news(store.database, "r", -1)


def test_who_only_reads_sees_whether_a_run_is_executed(url: str, tmp_path: Path) -> None:
    with Store(url) as store:
        journal = store.create_run(run_id="r", graph=Graph("g", [Node("a", "x")]), inputs={})
        with Store(f"{url}?mode=ro") as looking:
            assert looking.database.is_locked(run_offset("r", 1))
            assert RunControl(looking, "r").is_executed
            with pytest.raises(StoreReadOnly):
                looking.database.locking()
            journal.close()
            assert not looking.database.is_locked(run_offset("r", 1))
    (tmp_path / "state.db-lock").unlink()
    with Store(f"{url}?mode=ro") as looking:
        assert not looking.database.is_locked(run_offset("r", 1))
    assert not (tmp_path / "state.db-lock").exists(), "looking makes no file"


def test_ids_are_read_without_the_store(url: str, tmp_path: Path) -> None:
    with Registry():
        dag = make()
        for run_id in ("r1", "r2", "x'\"%_"):
            dag.run(database_url=url, run_id=run_id)
    assert {run_id for run_id, _ in run_ids(url)} == {"r1", "r2", "x'\"%_"}
    assert [run_id for run_id, _ in run_ids(url, "r")] == ["r2", "r1"]
    assert run_ids(url, "x'\"%") == [("x'\"%_", "two, completed")]
    assert run_ids(url, "%") == []
    assert graph_names(url) == ["two"]
    assert node_ids(url, "r1") == [("first", "completed"), ("second", "completed")]
    assert node_ids(url, "nobody") == []


@pytest.mark.parametrize(
    "form", ["sqlite:{}", "sqlite:///{}", "{}", "sqlite+pysqlite:///{}?mode=ro"]
)
def test_every_spelling_of_a_file_is_known(tmp_path: Path, form: str) -> None:
    path = tmp_path / "state.db"
    assert file_of(form.format(path)) is None, "it is not there"
    path.touch()
    assert file_of(form.format(path)) == str(path)
    assert file_of("postgresql://host/x") is None
    assert file_of("sqlite::memory:") is None
