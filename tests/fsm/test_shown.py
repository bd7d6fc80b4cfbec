"""What a shell shows of a machine, and of workflows."""

from __future__ import annotations

from dagger_dsl import DAG, FSM, FSMReturn, Registry


def test_a_machine_says_its_name_and_how_many_states_it_has() -> None:
    machine = FSM("order", registry=Registry())
    assert repr(machine) == "<FSM 'order': 0 states>"

    @machine.state(initial=True, terminal=True)
    def only() -> FSMReturn:
        return FSMReturn(value=1)

    assert repr(machine) == "<FSM 'order': 1 state>"
    assert repr(machine.compile()) == "<Graph 'order': 1 node>"
    assert repr(DAG("empty", registry=Registry())) == "<DAG 'empty': 0 nodes>"
