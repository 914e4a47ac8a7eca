"""The live peer: it plays story after story until one with the successor is whole."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import rlay
from tests.sweep.story import (
    Oracle,
    is_agent,
    observation,
    play_agent,
    play_game,
    same,
)
from tests.sweep.truth import DONE

#: How late an early victim's peer comes, and how long a slow one's dawdles: beyond a slice.
LATE, DAWDLE = 0.06, 0.03


@dataclasses.dataclass
class Seen:
    """One session as the survivor saw it: exchanges, how it ended, when."""

    exchanges: list[Any]
    ending: str
    at_ns: int


@dataclasses.dataclass(frozen=True)
class Role:
    """What the survivor plays.

    Attributes:
        face: its class.
        channel: its name.
        token: of an environment, or the seed of an agent.
        successor: the token, or seed, of the successor.
        timeout: of each of its calls, seconds; past it a death has gone unnoticed.
        hosted: an environment is hosted by ``serve()``; otherwise it has its own loop.
        late: it comes after the victim.
        slow: it dawdles with the victim.
    """

    face: str
    channel: str
    token: int
    successor: int
    timeout: float
    hosted: bool = False
    late: bool = False
    slow: bool = False


Told = Callable[[str], None]


def survive(role: Role, told: Told) -> list[Seen]:
    """Play until done with the successor; ``told`` hears of each ending at once."""
    if role.late:
        time.sleep(LATE)
    if is_agent(role.face):
        return _survive_as_agent(role, told)
    return _survive_as_game(role, told)


def _name(error: BaseException) -> str:
    plain = isinstance(error, rlay.PeerError)
    return type(error).__name__ if plain else f"{type(error).__name__}: {error}"


def _survive_as_agent(role: Role, told: Told) -> list[Seen]:
    sessions: list[Seen] = []
    env: Any = None
    try:
        while True:
            seen: list[Any] = []
            ending = DONE
            try:
                env = env or getattr(rlay, role.face)(
                    role.channel, timeout=role.timeout, attach_timeout=role.timeout
                )
                dawdle = DAWDLE if role.slow and not sessions else 0.0
                play_agent(env, role.token, seen, dawdle=dawdle)
                env = None
            except rlay.RlayError as error:
                ending = _name(error)
            sessions.append(Seen(seen, ending, time.monotonic_ns()))
            told(ending)
            with_successor = bool(seen) and same(
                seen[0][0], observation(role.successor, role.token, 0)
            )
            if ": " in ending or (ending == DONE and with_successor):
                return sessions
    finally:
        if env is not None:
            env.close()


class _Ears(logging.Handler):
    """Hears why ``serve()`` ended a session, which it tells the log only."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.errors: list[tuple[BaseException, int]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and isinstance(record.args[0], BaseException):
            self.errors.append((record.args[0], time.monotonic_ns()))


@contextlib.contextmanager
def _listening() -> Iterator[_Ears]:
    log, ears = logging.getLogger("rlay"), _Ears()
    level, propagate = log.level, log.propagate
    log.addHandler(ears)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield ears
    finally:
        log.removeHandler(ears)
        log.setLevel(level)
        log.propagate = propagate


def _survive_as_game(role: Role, told: Told) -> list[Seen]:
    sessions: list[Seen] = []
    oracle = Oracle(role.token)
    face = getattr(rlay, role.face)
    settings: dict[str, Any] = {"frame_capacity": 72, "attach_timeout": role.timeout}
    if role.hosted:
        backend = face(role.channel, oracle, **settings)
    else:
        settings |= {"observation_space": oracle.observation_space, "render": oracle.render}
        settings |= {"action_space": oracle.action_space, "timeout": role.timeout}
        backend = face(role.channel, **settings)
    with contextlib.closing(backend), _listening() as ears:
        while True:
            oracle.seen, ending, at_ns = [], DONE, 0
            try:
                if role.hosted:
                    backend.serve(sessions=1)
                    if ears.errors:
                        error, at_ns = ears.errors.pop()
                        ending = _name(error)
                else:
                    dawdle = DAWDLE if role.slow and not sessions else 0.0
                    play_game(backend, oracle, dawdle=dawdle)
            except rlay.RlayError as error:
                ending = _name(error)
            sessions.append(Seen(oracle.seen, ending, at_ns or time.monotonic_ns()))
            told(ending)
            with_successor = oracle.seen[:1] == [("RESET", role.successor)]
            if ": " in ending or (ending == DONE and with_successor):
                return sessions
