"""Ctrl-C at any line of a handshake or an ending: the endpoint goes on as if it had not come."""

from __future__ import annotations

import contextlib
import gc
import inspect
import itertools
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import rlay
from rlay.client import MemClient
from rlay.protocol.constants import Bye, Feature, Role
from rlay.protocol.schema import describe_env
from rlay.server import MemServer
from rlay.session import Session
from tests.peers import BACKENDS, FACES, WATCHDOG, Task
from tests.toys import Counter

CHANNEL = "interrupted"
HOME = os.path.dirname(rlay.__file__)
SIDES = ("endpoint.py", "server.py", "client.py")
MOVES = ("conversation.py", "agent_moves.py", "env_moves.py")
FILES = {os.path.join(HOME, name) for name in (*SIDES, *MOVES)}
RETRIED = (
    rlay.PeerError,
    rlay.ChannelTimeoutError,
    rlay.ChannelNotFoundError,
    rlay.ChannelBusyError,
)
#: Every so many lines; 1 is all of them.
STRIDE = 5

pytestmark = [pytest.mark.one_twin, pytest.mark.timeout(240)]


class _Interrupt:
    """Raises KeyboardInterrupt before the n-th line of FILES that this thread executes."""

    def __init__(self, line: int) -> None:
        self._left = line
        self.came = False

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        # Not in a generator: CPython 3.11 mixes up its stack when a trace function raises there.
        if frame.f_code.co_filename not in FILES or frame.f_code.co_flags & inspect.CO_GENERATOR:
            return None
        if event == "line":
            if self._left == 0:
                sys.settrace(None)
                self.came = True
                raise KeyboardInterrupt
            self._left -= 1
        return self._trace

    def __enter__(self) -> _Interrupt:
        # The collector would run `__del__` of other endpoints under the trace.
        gc.disable()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        gc.enable()


def endpoint(server: bool, role: Role) -> MemServer | MemClient:
    """Open one side of the channel."""
    toy = Counter()
    schema = describe_env(toy.observation_space, toy.action_space) if role is Role.ENV else None
    side = MemServer if server else MemClient
    return side(CHANNEL, role, features=Feature.NONE, schema=schema)


def attach(side: MemServer | MemClient) -> Session:
    call = side.accept if isinstance(side, MemServer) else side.attach
    return call(WATCHDOG)


def attach_and_exchange(side: MemServer | MemClient, role: Role) -> Session:
    """Attach and do one exchange; again where the peer gave up in between, for it is impatient."""
    while True:
        session = attach(side)
        with contextlib.suppress(rlay.PeerError):
            exchange(session, role)
            return session


def exchange(session: Session, role: Role) -> None:
    """Do one RESET and check it."""
    if role is Role.AGENT:
        session.send_reset(7, None)
        observation, info = session.receive(WATCHDOG)
        assert (observation.tolist()[1:], info["who"], info["seed"]) == ([0, -1], "peer", 7)
        return
    request = session.next_request(WATCHDOG)
    assert (request.command, request.seed) == (rlay.Command.RESET, 8)
    observation, info = Counter(who="us").reset(seed=8)
    session.reply_reset(observation, info)


def be_peer(mode: str, ours: Role, stop: threading.Event) -> None:
    """Be the other side, in one session after another, until told to stop."""
    settings: dict[str, Any] = {"timeout": WATCHDOG, "attach_timeout": 0.5}
    while not stop.is_set():
        with contextlib.suppress(*RETRIED):
            if ours is Role.ENV:
                with contextlib.closing(FACES[mode](CHANNEL, **settings)) as env:
                    while not stop.is_set():
                        observation, info = env.reset(seed=8)
                        assert (observation.tolist()[1:], info["who"]) == ([0, -1], "us")
            else:
                toy = Counter(who="peer")
                settings |= {"observation_space": toy.observation_space}
                settings |= {"action_space": toy.action_space}
                with contextlib.closing(BACKENDS[mode](CHANNEL, **settings)) as backend:
                    request = backend.next_request()
                    while request is not None:
                        observation, info = toy.reset(seed=request.seed)
                        request = backend.decide(observation, info=info)


def interrupted(call: Callable[[], Any], line: int) -> tuple[bool, Any]:
    """Call with an interrupt before the n-th line; return whether it came, and the result."""
    with contextlib.suppress(KeyboardInterrupt), _Interrupt(line) as interrupt:
        return interrupt.came, call()
    return True, None


def interrupt_everywhere(server: bool, role: Role, root: Path) -> None:
    """Interrupt an attach and an ending at each line, and use the endpoint afterwards."""
    mode = "ClientEnv" if server == (role is Role.ENV) else "ServerEnv"
    stop = threading.Event()
    peer = Task(be_peer, mode, role, stop)
    try:
        for line in itertools.count(0, STRIDE):
            side = endpoint(server, role)
            with contextlib.closing(side):
                in_attach, _ = interrupted(lambda side=side: attach(side), line)
                session = attach_and_exchange(side, role)
                in_end, _ = interrupted(session.end, line)
                session.end()
                attach_and_exchange(side, role)
            if server:
                assert {path.suffix for path in root.iterdir()} == {".lock"}, line
            if not in_attach and not in_end:
                break
        assert line > 30
    finally:
        stop.set()
        peer.result()


@pytest.mark.parametrize("role", [Role.ENV, Role.AGENT], ids=["env", "agent"])
@pytest.mark.parametrize("server", [True, False], ids=["server", "client"])
def test_an_endpoint_goes_on_after_an_interrupt(
    server: bool, role: Role, channel_root: Path
) -> None:
    interrupt_everywhere(server, role, channel_root)


def test_an_ending_that_cannot_be_repeated_is_found(
    channel_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, begun = Session.end, set()

    def end_once(self: Session, bye: Bye = Bye.CLOSED) -> None:
        if id(self) not in begun:
            begun.add(id(self))
            original(self, bye)

    monkeypatch.setattr(Session, "end", end_once)
    with pytest.raises(rlay.LocalProtocolError, match="not over"):
        interrupt_everywhere(True, Role.ENV, channel_root)
