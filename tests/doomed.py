"""What children do in the kill tests: one story, cut short by SIGKILL at a named point.

The story: RESET, STEP 1, STEP 2, STEP 3, STEP 4, CLOSE. A point of an exchange lies in
the fourth, STEP 3. ``POINTS`` says where each one is, and what the survivor must see.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import rlay
from rlay import atomics
from rlay.protocol import prefix
from tests.peers import BACKENDS, FACES, WATCHDOG, say
from tests.toys import Counter

LAST_STEP = 4
#: Exchanges of a whole story: a reset and four steps.
WHOLE = 1 + LAST_STEP

LOST, CLOSED, DONE = "PeerLostError", "PeerClosedError", "done"


@dataclasses.dataclass(frozen=True)
class Point:
    """Where a process is killed, and what its peer sees.

    Attributes:
        name: of the point.
        target: ``module:Class.function`` to patch, or None: the toy does it.
        when: before or after the function.
        count: which call of it.
        exchanges: how many the survivor completes with the victim.
        ending: how the survivor's session ends; None: it has none, and goes on waiting.
        also: another possible (exchanges, ending), where two processes race.
        leaving: the victim leaves without CLOSE, after two steps.
    """

    name: str
    target: str
    when: str
    count: int = 1
    exchanges: int = 0
    ending: str | None = None
    also: tuple[int, str | None] = ("", "")  # type: ignore[assignment]
    leaving: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


_HAND_OVER = "rlay.channel.channel:Channel.hand_over"
_BYE = "rlay.channel.channel:Channel.say_bye"
_REPLACE = "os:replace"
_HALF_PREFIX = "half a prefix"

_SERVER = (
    Point("before the publish rename", _REPLACE, "before"),
    Point("after the publish rename", _REPLACE, "after"),
    Point("hello seen", "rlay.server:MemServer._greet", "before"),
    Point("data file made", "rlay.server:MemServer._create_data", "after"),
    # The data file may be gone by the time the client wants it: then it attaches elsewhere.
    Point("after the welcome", _HAND_OVER, "after", ending=LOST, also=(0, None)),
)
_CLIENT = (
    Point("locked, before the claim", "rlay.channel.channel:Channel.claim", "before"),
    Point("after the claim", "rlay.channel.channel:Channel.claim", "after"),
    Point("hello written", _HAND_OVER, "before"),
)
_CLIENT_OF_ENV = (
    Point("hello handed over", _HAND_OVER, "after", ending=LOST),
    Point("data file mapped", "rlay.channel.files:unlink", "before", ending=LOST),
    Point("data file unlinked", "rlay.channel.files:unlink", "after", ending=LOST),
    Point("attached", "rlay.client:MemClient.open_session", "after", ending=LOST),
)
_CLIENT_OF_AGENT = (
    Point("hello handed over", _HAND_OVER, "after"),
    Point("data file mapped", "rlay.channel.files:unlink", "before"),
    Point("data file unlinked", "rlay.channel.files:unlink", "after"),
    Point("READY handed over", _HAND_OVER, "after", 2, ending=LOST),
)
_AGENT = (
    Point("before the request", "rlay.session:Session.send_step", "before", 3, 3, LOST),
    Point("request without prefix", "rlay.protocol.prefix:Record._finish", "before", 4, 3, LOST),
    Point("request with half a prefix", _HALF_PREFIX, "before", 4, 3, LOST),
    Point("request written", "rlay.session:Session._sent", "before", 4, 3, LOST),
    Point("request handed over", "rlay.session:Session._sent", "after", 4, 4, LOST),
    Point("reply there", "rlay.protocol.records:ReplyRecord.open", "before", 4, 4, LOST),
    Point("reply read", "rlay.session:Session.receive", "after", 4, 4, LOST),
    Point("before CLOSE", "rlay.session:Session.send_close", "before", 1, WHOLE, LOST),
    Point("CLOSE handed over", "rlay.session:Session.send_close", "after", 1, WHOLE, DONE),
    Point("CLOSE answered, before bye", _BYE, "before", 1, WHOLE, DONE),
    Point("CLOSE answered, after bye", _BYE, "after", 1, WHOLE, DONE),
    Point("leaving, before bye", _BYE, "before", 1, 3, LOST, leaving=True),
    Point("leaving, after bye", _BYE, "after", 1, 3, CLOSED, leaving=True),
)
_ENV = (
    Point("request there", "rlay.protocol.records:RequestRecord.command", "before", 4, 3, LOST),
    Point("request read", "rlay.session:Session.next_request", "after", 4, 3, LOST),
    Point("inside env.step", "tests.toys:Counter.step", "before", 3, 3, LOST),
    Point("after env.step", "tests.toys:Counter.step", "after", 3, 3, LOST),
    Point("reply without prefix", "rlay.protocol.prefix:Record._finish", "before", 4, 3, LOST),
    Point("reply with half a prefix", _HALF_PREFIX, "before", 4, 3, LOST),
    Point("reply written", "rlay.session:Session._answered", "before", 4, 3, LOST),
    Point("reply handed over", "rlay.session:Session._answered", "after", 4, 4, LOST),
    Point("CLOSE read", "rlay.session:Session.next_request", "after", 6, WHOLE, DONE),
    Point("CLOSE answered, before bye", _BYE, "before", 1, WHOLE, DONE),
    Point("CLOSE answered, after bye", _BYE, "after", 1, WHOLE, DONE),
    Point("leaving, before bye", _BYE, "before", 1, 3, LOST, leaving=True),
    Point("leaving, after bye", _BYE, "after", 1, 3, CLOSED, leaving=True),
)
#: Of a server, after the session: it publishes the next file, or withdraws this one.
_SERVER_END = (
    Point("before it publishes again", _REPLACE, "before", 2, WHOLE, DONE),
    Point("after it published again", _REPLACE, "after", 2, WHOLE, DONE),
    Point("before it withdraws", "rlay.channel.files:unlink", "before", 2, WHOLE, DONE),
    Point("before it unlocks", "rlay.channel.locks:OsLock.close", "before", 1, WHOLE, DONE),
)

#: The victim's class to the points where it is killed.
POINTS: dict[str, tuple[Point, ...]] = {
    "ServerBackend": _SERVER + _ENV + _SERVER_END,
    "ClientEnv": _CLIENT + _CLIENT_OF_ENV + _AGENT,
    "ServerEnv": _SERVER + _AGENT,
    "ClientBackend": _CLIENT + _CLIENT_OF_AGENT + _ENV,
}


def _die() -> None:
    say(["dies at", time.monotonic_ns()])
    os.kill(os.getpid(), signal.SIGKILL)


class _HalfPrefix:
    """Stands in for the packer of the prefix: at the given call it stops half way."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._struct = prefix.PREFIX

    def pack_into(self, memory: Any, offset: int, *values: int) -> None:
        if any(values[:3]):  # not the stamp of a new data file
            self._left -= 1
        if self._left == 0:
            prefix = self._struct.pack(*values)
            memory[offset : offset + 10] = prefix[:10]
            _die()
        self._struct.pack_into(memory, offset, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._struct, name)


def _arm(point: Point) -> None:
    """Patch the point's function, so that this process kills itself there."""
    # The points are on the long way; the survivor takes the compiled path if there is one.
    atomics.Exchange = None
    if point.target == _HALF_PREFIX:
        prefix.PREFIX = _HalfPrefix(point.count)  # type: ignore[assignment]
        return
    module, _, path = point.target.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        now = calls
        if now == point.count and point.when == "before":
            _die()
        result = original(*args, **kwargs)
        if now == point.count and point.when == "after":
            _die()
        return result

    setattr(owner, name, patched)


def play_agent(env: Any, exchanges: list[Any], *, seed: int, leaving: bool = False) -> None:
    """Be the agent of one story; append each result to ``exchanges``."""
    observation, info = env.reset(seed=seed)
    exchanges.append((observation.tolist()[1:], info["who"], info["seed"]))
    for action in range(1, LAST_STEP + 1):
        if leaving and action == 3:
            env._session.end()
            return
        observation, reward, _, _, info = env.step(action)
        exchanges.append((observation.tolist()[1:], reward, info["echo"]))
    env.close()


def play_env(backend: Any, exchanges: list[Any], *, who: str, leaving: bool = False) -> None:
    """Be the game of one story, with a loop of its own; append each request."""
    game = Counter(who=who)
    request = backend.next_request()
    while request is not None:
        if request.command is rlay.Command.RESET:
            exchanges.append(("RESET", request.seed))
            observation, info = game.reset(seed=request.seed)
            request = backend.decide(observation, info=info)
            continue
        exchanges.append(("STEP", int(request.action)))
        if leaving and request.action == 3:
            backend.close()
            return
        observation, reward, terminated, truncated, info = game.step(request.action)
        request = backend.decide(observation, reward, terminated, truncated, info)


AGENT_SEEDS = {"victim": 1, "successor": 2, "survivor": 3}


def agent(mode: str, channel: str, who: str, point: dict[str, Any] | None = None) -> None:
    """Be the victim or its successor, as agent."""
    if point:
        _arm(Point(**point))
    env = FACES[mode](channel, timeout=WATCHDOG, attach_timeout=WATCHDOG)
    leaving = bool(point and point["leaving"])
    play_agent(env, [], seed=AGENT_SEEDS[who], leaving=leaving)


def game(mode: str, channel: str, who: str, point: dict[str, Any] | None = None) -> None:
    """Be the victim or its successor, as environment."""
    if point:
        _arm(Point(**point))
    settings = {
        "observation_space": Counter().observation_space,
        "action_space": Counter().action_space,
        "timeout": WATCHDOG,
        "attach_timeout": WATCHDOG,
    }
    backend = BACKENDS[mode](channel, **settings)
    play_env(backend, [], who=who, leaving=bool(point and point["leaving"]))
    backend.close()


def survive_as_agent(mode: str, channel: str) -> list[tuple[list[Any], str, int]]:
    """Play until a whole story with the successor is done; return (exchanges, ending, time)."""
    sessions: list[tuple[list[Any], str, int]] = []
    env = None
    try:
        while True:
            exchanges: list[Any] = []
            env = env or FACES[mode](channel, timeout=WATCHDOG, attach_timeout=WATCHDOG)
            try:
                play_agent(env, exchanges, seed=AGENT_SEEDS["survivor"])
                ending, env = DONE, None
            except rlay.PeerError as error:
                ending = type(error).__name__
            sessions.append((exchanges, ending, time.monotonic_ns()))
            if ending == DONE and exchanges[0][1] == "successor":
                return sessions
    finally:
        if env is not None:
            env.close()


def survive_as_game(mode: str, channel: str) -> list[tuple[list[Any], str, int]]:
    """Serve until a whole story with the successor is done; return (exchanges, ending, time)."""
    sessions: list[tuple[list[Any], str, int]] = []
    spaces = Counter()
    backend = BACKENDS[mode](
        channel,
        observation_space=spaces.observation_space,
        action_space=spaces.action_space,
        timeout=WATCHDOG,
        attach_timeout=WATCHDOG,
    )
    with contextlib.closing(backend):
        while True:
            exchanges: list[Any] = []
            try:
                play_env(backend, exchanges, who="survivor")
                ending = DONE
            except rlay.PeerError as error:
                ending = type(error).__name__
            sessions.append((exchanges, ending, time.monotonic_ns()))
            if ending == DONE and exchanges[:1] == [("RESET", AGENT_SEEDS["successor"])]:
                return sessions
