"""Stories through the state table; ``spec/test_state_table.py`` has every pair."""

from __future__ import annotations

import pytest

from rlay.errors import LocalProtocolError, RemoteProtocolError
from rlay.protocol.constants import Command
from rlay.protocol.turn import Event, State, TurnMachine

HANDSHAKE = (Event.HELLO, Event.WELCOME, Event.READY)


def after(*events: Event | Command) -> TurnMachine:
    machine = TurnMachine()
    for event in events:
        machine.we(event)
    return machine


def test_a_session_from_hello_to_close() -> None:
    episode = (Command.RESET, Event.OK, Command.STEP, Event.OK, Command.RENDER, Event.OK)
    machine = after(*HANDSHAKE, *episode)
    assert machine.state is State.IN_EPISODE
    machine.we(Command.CLOSE)
    machine.they(Event.OK)
    assert machine.state is State.ENDED


def test_both_sides_stay_in_step() -> None:
    client, server = TurnMachine(), TurnMachine()
    by_client = {Event.HELLO, Event.READY, Event.RESET, Event.STEP}
    for event in (*HANDSHAKE, Event.RESET, Event.OK, Event.STEP, Event.ERROR):
        mover, other = (client, server) if event in by_client else (server, client)
        mover.we(event)
        other.they(event)
        assert client.state is server.state


def test_a_failed_step_needs_a_reset() -> None:
    machine = after(*HANDSHAKE, Event.RESET, Event.OK, Event.STEP, Event.ERROR)
    with pytest.raises(LocalProtocolError, match=r"call reset\(\) first"):
        machine.we(Command.STEP)
    machine.we(Command.RESET)


@pytest.mark.parametrize("command", [Command.RENDER, Command.CALL])
def test_a_failed_question_changes_nothing(command: Command) -> None:
    for state in (State.FRESH, State.IN_EPISODE):
        machine = TurnMachine(state)
        machine.we(command)
        machine.they(Event.ERROR)
        assert machine.state is state


def test_a_rejection_ends_it() -> None:
    assert after(Event.HELLO, Event.REJECT).state is State.ENDED


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        (State.PUBLISHED, "wait for the peer"),
        (State.FRESH, r"call reset\(\) first"),
        (State.RESETTING, "a reset is pending"),
        (State.STEPPING, "a step is pending"),
        (State.ASKED, "a request is pending"),
        (State.ENDED, "the session is over"),
    ],
)
def test_the_error_says_what_to_do(state: State, remedy: str) -> None:
    machine = TurnMachine(state)
    with pytest.raises(LocalProtocolError, match=f"STEP is not allowed .*: {remedy}"):
        machine.check(Command.STEP)
    assert machine.state is state


def test_an_illegal_move_of_the_peer_ends_the_session() -> None:
    machine = after(*HANDSHAKE)
    with pytest.raises(RemoteProtocolError, match="STEP in state FRESH"):
        machine.they(Command.STEP)
    assert machine.state is State.ENDED
    machine.end()
    assert machine.state is State.ENDED
