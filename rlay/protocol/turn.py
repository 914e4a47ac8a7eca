"""Who may move when: the one state table of a session (PROTOCOL.md §6).

Theory of operation. Both sides run this same table over what they do and what
the peer does. Rule 1: every transition is a row of ``TABLE``. Rule 2: nothing
here knows which side or role we are; the caller says who moved. Rule 3: an
illegal move of ours is a ``LocalProtocolError`` and changes nothing; an illegal
move of the peer is a ``RemoteProtocolError`` and ends the session.
"""

from __future__ import annotations

import enum

from rlay.errors import LocalProtocolError, RemoteProtocolError
from rlay.protocol.constants import Command, Role, Side


class State(enum.IntEnum):
    """Where a session stands."""

    PUBLISHED = 0
    GREETED = 1
    WELCOMED = 2
    FRESH = 3
    IN_EPISODE = 4
    RESETTING = 5
    STEPPING = 6
    ASKED_FRESH = 7
    ASKED = 8
    CLOSING = 9
    ENDED = 10


class Event(enum.IntEnum):
    """What a side or role does; commands keep their wire value."""

    READY = Command.READY
    RESET = Command.RESET
    STEP = Command.STEP
    RENDER = Command.RENDER
    CALL = Command.CALL
    CLOSE = Command.CLOSE
    HELLO = 6
    WELCOME = 7
    REJECT = 8
    OK = 9
    ERROR = 10


Mover = Side | Role

#: state, who moves, event, next state. Goodbye or loss leads to ENDED from anywhere.
TABLE: tuple[tuple[State, Mover, Event, State], ...] = (
    (State.PUBLISHED, Side.CLIENT, Event.HELLO, State.GREETED),
    (State.GREETED, Side.SERVER, Event.WELCOME, State.WELCOMED),
    (State.GREETED, Side.SERVER, Event.REJECT, State.ENDED),
    (State.WELCOMED, Side.CLIENT, Event.READY, State.FRESH),
    (State.FRESH, Role.AGENT, Event.RESET, State.RESETTING),
    (State.FRESH, Role.AGENT, Event.RENDER, State.ASKED_FRESH),
    (State.FRESH, Role.AGENT, Event.CALL, State.ASKED_FRESH),
    (State.FRESH, Role.AGENT, Event.CLOSE, State.CLOSING),
    (State.IN_EPISODE, Role.AGENT, Event.RESET, State.RESETTING),
    (State.IN_EPISODE, Role.AGENT, Event.STEP, State.STEPPING),
    (State.IN_EPISODE, Role.AGENT, Event.RENDER, State.ASKED),
    (State.IN_EPISODE, Role.AGENT, Event.CALL, State.ASKED),
    (State.IN_EPISODE, Role.AGENT, Event.CLOSE, State.CLOSING),
    (State.RESETTING, Role.ENV, Event.OK, State.IN_EPISODE),
    (State.RESETTING, Role.ENV, Event.ERROR, State.FRESH),
    (State.STEPPING, Role.ENV, Event.OK, State.IN_EPISODE),
    (State.STEPPING, Role.ENV, Event.ERROR, State.FRESH),
    (State.ASKED_FRESH, Role.ENV, Event.OK, State.FRESH),
    (State.ASKED_FRESH, Role.ENV, Event.ERROR, State.FRESH),
    (State.ASKED, Role.ENV, Event.OK, State.IN_EPISODE),
    (State.ASKED, Role.ENV, Event.ERROR, State.IN_EPISODE),
    (State.CLOSING, Role.ENV, Event.OK, State.ENDED),
    (State.CLOSING, Role.ENV, Event.ERROR, State.ENDED),
)

_NEXT: list[list[State | None]] = [[None] * len(Event) for _ in State]
for _state, _mover, _event, _next in TABLE:
    _NEXT[_state][_event] = _next

#: What our caller should do instead, where the table alone would not tell.
_REMEDY = {
    State.FRESH: "call reset() first",
    State.RESETTING: "a reset is pending: call wait(), reattach() or close()",
    State.STEPPING: "a step is pending: call wait(), reattach() or close()",
    State.ASKED: "a request is pending: call wait(), reattach() or close()",
    State.ASKED_FRESH: "a request is pending: call wait(), reattach() or close()",
    State.ENDED: "the session is over: call reset() to attach again, or close()",
}


class TurnMachine:
    """Follows one session through ``TABLE``."""

    __slots__ = ("state",)

    def __init__(self, state: State = State.PUBLISHED) -> None:
        """Begin at ``state``."""
        self.state = state

    def we(self, event: Event | Command) -> None:
        """Record a move of ours.

        Raises:
            LocalProtocolError: the table does not allow it; the state is unchanged.
        """
        following = _NEXT[self.state][event]
        if following is None:
            name = Event(event).name
            remedy = _REMEDY.get(self.state, "wait for the peer")
            raise LocalProtocolError(f"{name} is not allowed in state {self.state.name}: {remedy}")
        self.state = following

    def they(self, event: Event | Command) -> None:
        """Record a move of the peer.

        Raises:
            RemoteProtocolError: the table does not allow it; the session is over.
        """
        following = _NEXT[self.state][event]
        if following is None:
            state, self.state = self.state, State.ENDED
            raise RemoteProtocolError(
                f"the peer sent {Event(event).name} in state {state.name}; the session is over"
            )
        self.state = following

    def following(self, event: Event | Command) -> State:
        """Return the state after an event that is allowed now."""
        following = _NEXT[self.state][event]
        return self.state if following is None else following

    def check(self, event: Event | Command) -> None:
        """Raise what ``we`` would raise, but change nothing."""
        # Not by moving there and back: Ctrl-C in between would leave the state changed.
        if _NEXT[self.state][event] is None:
            self.we(event)

    def end(self) -> None:
        """Goodbye or loss: the session is over."""
        self.state = State.ENDED
