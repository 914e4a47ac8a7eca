"""Every pair of state and event, for a move of ours and for a move of theirs (§6.5)."""

from __future__ import annotations

import itertools

import pytest

from rlay.errors import LocalProtocolError, RemoteProtocolError
from rlay.protocol.constants import Command, Role, Side
from rlay.protocol.turn import TABLE, Event, State, TurnMachine

MOVER = {state: mover for state, mover, _, _ in TABLE}

LISTED = {(state, event): following for state, _, event, following in TABLE}
PAIRS = list(itertools.product(State, Event))
IDS = [f"{state.name}-{event.name}" for state, event in PAIRS]


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=IDS)
def test_a_move_of_ours(state: State, event: Event) -> None:
    machine = TurnMachine(state)
    if (state, event) in LISTED:
        machine.check(event)
        assert machine.state is state
        machine.we(event)
        assert machine.state is LISTED[state, event]
        return
    for move in (machine.check, machine.we):
        with pytest.raises(LocalProtocolError, match=f"{event.name} .* {state.name}: ."):
            move(event)
        assert machine.state is state


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=IDS)
def test_a_move_of_theirs(state: State, event: Event) -> None:
    machine = TurnMachine(state)
    if (state, event) in LISTED:
        machine.they(event)
        assert machine.state is LISTED[state, event]
        return
    with pytest.raises(RemoteProtocolError, match=f"{event.name} in state {state.name}"):
        machine.they(event)
    assert machine.state is State.ENDED


@pytest.mark.parametrize("state", State)
def test_a_goodbye_ends_every_state(state: State) -> None:
    machine = TurnMachine(state)
    machine.end()
    assert machine.state is State.ENDED


def test_no_pair_is_listed_twice() -> None:
    assert len(LISTED) == len(TABLE)


def test_one_mover_for_each_state() -> None:
    for state, mover, _, _ in TABLE:
        assert MOVER[state] is mover
    assert set(State) - set(MOVER) == {State.ENDED}


def test_movers_are_sides_before_the_session_runs_and_roles_afterwards() -> None:
    for state, mover, event, _ in TABLE:
        handshake = event in (Event.HELLO, Event.WELCOME, Event.REJECT, Event.READY)
        assert isinstance(mover, Side if handshake else Role), state


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.PUBLISHED}
    for _ in State:
        reached |= {following for (state, _), following in LISTED.items() if state in reached}
    assert reached == set(State)
    assert {state for state, _ in LISTED} == set(State) - {State.ENDED}


@pytest.mark.parametrize("command", Command)
def test_commands_are_events_with_their_wire_value(command: Command) -> None:
    assert Event(command).name == command.name
