"""`branch`: an action that returns the ids of the nodes that go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest

from dagger_dsl import DAG, Branch, action
from dagger_dsl.dsl import branch
from dagger_dsl.errors import ConfigurationError, ValidationError
from dagger_dsl.model.graph import Edge
from dagger_dsl.registry import Registry

pytestmark = pytest.mark.row("E21")


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.fixture
def dag() -> DAG:
    return DAG("flow")


def ship() -> str:
    return "shipped"


def refuse() -> str:
    return "refused"


def states(dag: DAG) -> dict[str, str]:
    return {name: str(state) for name, state in dag.report.states().items()}


@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
@pytest.mark.parametrize(
    ("weight", "ran", "skipped"), [(1, "ship", "refuse"), (9, "refuse", "ship")]
)
def test_exactly_one_side_runs(dag: DAG, weight: int, ran: str, skipped: str, runner: str) -> None:
    @branch
    def route(weight: int) -> str:
        return "ship" if weight < 5 else "refuse"

    with dag:
        route(dag.input("weight", int)) >> [action(ship), action(refuse)]  # type: ignore[operator]
    dag.run({"weight": weight}, runner=runner)
    assert states(dag) == {"route": "completed", ran: "completed", skipped: "skipped"}


def test_arrows_are_labelled_by_their_targets(dag: DAG) -> None:
    @branch
    def route() -> str:
        return "ship"

    with dag:
        route >> [action(ship), action(refuse).with_options(id="no")]
    graph = dag.compile()
    assert graph.labelled == (Edge("route", "ship", "ship"), Edge("route", "no", "no"))
    assert graph.nodes["ship"].dependencies == ()
    assert type(graph).from_yaml(graph.to_yaml()) == graph


def test_every_way_to_draw_an_arrow_labels_it() -> None:
    @branch
    def route() -> str:
        return "ship"

    ship_ = action(ship)
    wanted = (Edge("route", "ship", "ship"),)
    assert DAG(route >> ship_).compile().labelled == wanted
    assert DAG(ship_ << route).compile().labelled == wanted
    with DAG("handles") as handles:
        handles.add(ship_) << handles.add(route)
    assert handles.compile().labelled == wanted
    with DAG("connected") as connected:
        connected.add("route")
        connected.add("ship")
        connected.connect("route", "ship")
    assert connected.compile().labelled == wanted
    with DAG("options") as options:
        route.with_options(timeout=3) >> ship_
    assert options.compile().labelled == wanted


def test_several_ids_or_none_may_be_chosen(dag: DAG) -> None:
    @branch
    def route(picked: list[str]) -> list[str]:
        return picked

    with dag:
        route >> [action(ship), action(refuse)]
    dag.run({"picked": ["ship", "refuse"]})
    assert states(dag) == {"route": "completed", "ship": "completed", "refuse": "completed"}
    dag.run({"picked": []})
    assert states(dag) == {"route": "completed", "ship": "skipped", "refuse": "skipped"}


def test_a_join_after_both_sides_runs(dag: DAG) -> None:
    @branch
    def route() -> str:
        return "refuse"

    @action(trigger="none_failed")
    def tell(ship: str | None, refuse: str | None) -> str:
        return ship or refuse or "nothing"

    with dag:
        route >> [action(ship), action(refuse)] >> tell
    assert dag.run() == "refused"


def test_a_value_flows_only_together_with_a_choice(dag: DAG) -> None:
    @branch
    def weigh(weight: int) -> Branch:
        return Branch("light" if weight < 5 else "heavy", weight)

    @branch
    def route() -> str:
        return "light"

    @action
    def light(weight: int) -> int:
        return weight

    @action
    def heavy(weight: int) -> int:
        return -weight

    with dag:
        weigh >> [light, heavy]
    assert dag.run({"weight": 7}) == {"heavy": -7}
    with DAG("plain") as plain:
        route >> light
    assert list(plain.compile().inputs) == ["weight"]


def test_answers_that_lead_nowhere_are_found_where_they_are_annotated(dag: DAG) -> None:
    @branch
    def route() -> Literal["ship", "refuse"]:
        return "ship"

    with dag:
        route >> [action(ship), action(refuse, name="deny")]
    with pytest.raises(ValidationError, match="'route' never answers 'deny'"):
        dag.validate()

    @branch
    def check() -> bool:
        return True

    with DAG("bools") as bools:
        check >> action(ship)
    with pytest.raises(ValidationError, match="'check' never answers 'ship'"):
        bools.validate()


def test_waiting_for_the_answer_is_no_part_of_the_choice(dag: DAG) -> None:
    @branch
    def route() -> str:
        return "ship"

    @action
    def log(answer: Any) -> Any:
        return answer

    with dag:
        answer = route()
        log(answer)
        dag.add(action(ship)).after(answer)
        dag.connect("route", dag.add(action(refuse)))
    assert dag.run() == {"log": "ship", "ship": "shipped"}
    assert dag.compile().labelled == (Edge("route", "refuse", "refuse"),)


def test_it_is_an_action_in_all_else(registry: Registry) -> None:
    @branch(timeout=3, name="way")
    def route(weight: int) -> str:
        """Choose."""
        return "ship"

    assert route(1) == "ship"
    assert (route.name, route.__name__, route.__doc__) == ("way", "route", "Choose.")
    assert registry["way"] is route.definition
    assert registry["way"].timeout == 3.0
    with pytest.raises(ConfigurationError, match="did you mean 'timeout'"):
        branch(timeot=3)  # type: ignore[call-overload]

    class Router:
        @branch
        def pick(self) -> str:
            return "ship"

    assert Router().pick() == "ship"
    with DAG("method") as dag:
        Router().pick >> action(ship)
    assert dag.compile().labelled == (Edge("pick", "ship", "ship"),)
