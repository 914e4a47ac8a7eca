"""Sessions one after another: start orders, comings and goings, a game's own loop, lies."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlay
from rlay import Command
from rlay.channel import files
from rlay.channel.channel import Channel
from rlay.protocol.header import HEADER
from tests.peers import BACKENDS, FACES, MODES, PATIENT, WATCHDOG, Task, hosted, serving, until
from tests.toys import Counter, play

CHANNEL = "sessions"

both_modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def game(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A backend without an environment, for a loop of the test's own."""
    toy = Counter()
    settings = {"observation_space": toy.observation_space, "action_space": toy.action_space}
    mode = request.getfixturevalue("mode")
    with contextlib.closing(BACKENDS[mode](CHANNEL, **settings, **PATIENT)) as backend:
        yield backend


def seen(steps: int, action: int = -1) -> np.ndarray:
    return np.array([1, steps, action])


@both_modes
def test_agents_one_after_another(mode: str) -> None:
    toy = Counter()
    with serving(mode, toy, CHANNEL):
        for _ in range(5):
            env = FACES[mode](CHANNEL, **PATIENT)
            play(env)
            env.close()
    assert toy.closed


@both_modes
def test_serve_counts_its_sessions(mode: str) -> None:
    with contextlib.closing(BACKENDS[mode](CHANNEL, Counter(), **PATIENT)) as backend:
        task = Task(backend.serve, sessions=2)
        for _ in range(2):
            assert not task.done()
            with contextlib.closing(FACES[mode](CHANNEL, **PATIENT)) as env:
                play(env)
        task.result()


@both_modes
@pytest.mark.parametrize("first", ["agent", "environment"])
def test_both_start_orders(mode: str, first: str, channel_root: Path) -> None:
    server = "agent" if mode == "ServerEnv" else "environment"
    lock = channel_root / f"{CHANNEL}.{'server' if first == server else 'client'}.lock"
    if first == "agent":
        task = Task(FACES[mode], CHANNEL, **PATIENT)
        until(lock.exists, "the agent has begun")
        with serving(mode, Counter(), CHANNEL):
            with contextlib.closing(task.result()) as env:
                play(env)
        return
    with contextlib.closing(BACKENDS[mode](CHANNEL, Counter(), **PATIENT)) as backend:
        serve = Task(backend.serve, sessions=1)
        until(lock.exists, "the environment has begun")
        with contextlib.closing(FACES[mode](CHANNEL, **PATIENT)) as env:
            play(env)
        serve.result()


@both_modes
def test_the_environment_leaves_and_comes_back(mode: str) -> None:
    backend = BACKENDS[mode](CHANNEL, Counter(), **PATIENT)
    with contextlib.ExitStack() as stack:
        task = Task(FACES[mode], CHANNEL, **PATIENT)
        session = Task(backend._attach, WATCHDOG).result()
        env = task.result()
        stack.callback(env.close)
        asking = Task(env.reset)
        request = session.next_request(WATCHDOG)
        assert request.command is Command.RESET
        backend.close()
        with pytest.raises(rlay.PeerClosedError, match=r"reset\(\) attaches again"):
            asking.result()
        with pytest.raises(rlay.LocalProtocolError, match="the session is over"):
            env.step(1)
        with serving(mode, Counter(), CHANNEL):
            play(env)
            env.close()


@both_modes
def test_the_agent_leaves_and_another_comes(mode: str, game: Any) -> None:
    for attempt in range(3):
        task = Task(FACES[mode], CHANNEL, **PATIENT)
        asking = Task(lambda task=task: (task.result(), task.result().reset(seed=4)))
        request = game.next_request()
        assert (request.command, request.seed) == (Command.RESET, 4)
        deciding = Task(game.decide, seen(0))
        env, _ = asking.result()
        if attempt == 1:
            env._session.end()
            with pytest.raises(rlay.PeerClosedError):
                deciding.result()
        env.close()
        if attempt != 1:
            assert deciding.result() is None


@both_modes
def test_decide_gives_each_action_its_result(mode: str, game: Any) -> None:
    agent = Task(lambda: play_and_close(mode))
    request = game.next_request()
    requests = []
    steps = 0
    while request is not None:
        requests.append((request.command, request.action))
        steps = 0 if request.command is Command.RESET else steps + 1
        action = -1 if request.action is None else int(request.action)
        request = game.decide(seen(steps, action), float(action))
    agent.result()
    steps_asked = [(Command.STEP, k) for k in range(1, 4)]
    assert requests == [(Command.RESET, None), *steps_asked]


def play_and_close(mode: str) -> None:
    with contextlib.closing(FACES[mode](CHANNEL, **PATIENT)) as env:
        play(env)


@both_modes
def test_fail_and_go_on(mode: str, game: Any) -> None:
    def agent() -> None:
        with contextlib.closing(FACES[mode](CHANNEL, **PATIENT)) as env:
            env.reset()
            with pytest.raises(rlay.RemoteError, match="ValueError: no such move"):
                env.step(1)
            with pytest.raises(rlay.LocalProtocolError, match="reset"):
                env.step(2)
            assert env.reset()[0].tolist() == [1, 0, 7]
            with pytest.raises(rlay.LocalProtocolError, match="does not offer CALL"):
                env.call("anything")
            with pytest.raises(rlay.LocalProtocolError, match="does not offer RENDER"):
                env.render()

    task = Task(agent)
    assert game.next_request().command is Command.RESET
    assert game.decide(seen(0)).command is Command.STEP
    # A reply that does not fit leaves the request open.
    with pytest.raises(rlay.LayoutError):
        game.decide(np.zeros(5))
    assert game.fail(ValueError("no such move")).command is Command.RESET
    assert game.decide(seen(0, 7)) is None
    task.result()


@both_modes
def test_a_late_agent_is_waited_for_again(mode: str, game: Any) -> None:
    task = Task(FACES[mode], CHANNEL, **PATIENT)
    while not task.done():
        with pytest.raises(rlay.ChannelTimeoutError, match="request"):
            game.next_request(0.0)
    env = task.result()
    game.timeout = 0.0
    with pytest.raises(rlay.ChannelTimeoutError):
        game.next_request()
    with pytest.raises(rlay.LocalProtocolError, match="no request is open"):
        game.decide(seen(0))
    asking = Task(env.reset)
    request = game.next_request(WATCHDOG)
    assert request.command is Command.RESET
    with pytest.raises(rlay.LocalProtocolError, match="RESET is open"):
        game.next_request()
    with pytest.raises(rlay.ChannelTimeoutError):
        game.decide(seen(0))
    assert asking.result()[0].tolist() == [1, 0, -1]
    stepping = Task(env.step, 8)
    assert game.next_request(WATCHDOG).action == 8
    game.timeout = WATCHDOG
    closing = Task(lambda: (stepping.result(), env.close()))
    assert game.decide(seen(1, 8), 8.0) is None
    closing.result()
    assert stepping.result()[1] == 8.0


@both_modes
def test_nothing_is_resumed_after_reattach(mode: str) -> None:
    with hosted(mode, Counter(), CHANNEL) as env:
        play(env)
        generation = env._session._channel.generation
        env.reattach()
        assert env._session._channel.generation != generation
        with pytest.raises(rlay.LocalProtocolError):
            env.step(1)
        play(env)


# The agent's side against bytes that break the rules.


@both_modes
@pytest.mark.parametrize(
    ("at", "value", "text"),
    [
        (0x00, 99, "carries seq 99, expected 1"),
        (0x08, 2, "answers command 2, asked was 1"),
        (0x0C, 5, "status is 5"),
        (0x10, 1 << 31, "body_size is"),
        (0x18, 1, "is of session"),
    ],
)
def test_a_reply_that_lies_ends_the_session(
    mode: str, at: int, value: int, text: str, game: Any
) -> None:
    attaching = Task(FACES[mode], CHANNEL, **PATIENT)
    asking = Task(lambda: attaching.result().reset())
    game.next_request()
    session = game._session
    hand_over = session._channel.hand_over

    def spoil() -> None:
        start = session.layout.request_size + at
        session._data.memory[start : start + 4] = value.to_bytes(4, "little")
        hand_over()

    session._channel.hand_over = spoil
    deciding = Task(game.decide, seen(0))
    with pytest.raises(rlay.RemoteProtocolError, match=text):
        asking.result()
    with pytest.raises(rlay.PeerClosedError, match="gave up because of an error") as caught:
        deciding.result()
    assert caught.value.reason == "failed"
    attaching.result().close()


@both_modes
def test_no_turn_in_the_turn_word_ends_the_session(mode: str, game: Any) -> None:
    attaching = Task(FACES[mode], CHANNEL, **PATIENT)
    asking = Task(lambda: attaching.result().reset())
    game.next_request()
    start = HEADER["turn"].offset
    game._session._channel.mapping.memory[start : start + 4] = b"\x77\0\0\0"
    with pytest.raises(rlay.RemoteProtocolError, match="0x77"):
        asking.result()
    attaching.result().close()


@both_modes
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("broken", ["", "silent", "hoards"])
def test_a_session_that_cannot_be_made_is_given_up(
    mode: str, side: str, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the welcome: the peer is told, nothing is kept, and the next try attaches.

    A side that tells nothing, or keeps what it has mapped, is found out.
    """
    module = importlib.import_module(f"rlay.{side}")
    make, failed = module.Session, []

    def fail_once(channel: Channel, data: files.Mapping, **kwargs: Any) -> Any:
        if failed:
            return make(channel, data, **kwargs)
        failed.extend([files.attach(channel.paths.control, writable=False), data, data.close])
        if broken == "silent":
            monkeypatch.setattr(channel, "say_bye", lambda bye: None)
        if broken == "hoards":
            monkeypatch.setattr(data, "close", lambda: None)
        raise MemoryError("no room for the records")

    monkeypatch.setattr(module, "Session", fail_once)
    backend = BACKENDS[mode](CHANNEL, Counter(), **PATIENT)
    serve = Task(backend.serve)
    agent = Task(FACES[mode], CHANNEL, **PATIENT)
    agent_fails = (side == "client") == (mode == "ClientEnv")
    with pytest.raises(MemoryError):
        (agent if agent_fails else serve).result()
    control, data, close = failed
    told = control.memory[HEADER[f"{side}_bye"].offset] != 0
    assert (told, data._map is None) == (broken != "silent", broken != "hoards")
    control.close()
    close()
    if agent_fails:
        agent = Task(FACES[mode], CHANNEL, **PATIENT)
    else:
        serve = Task(backend.serve)
    env = agent.result()
    with contextlib.suppress(rlay.PeerError):
        # An agent that was welcomed finds out here that its session was given up.
        env.reset()
    assert env.reset()[0].tolist()[1:] == [0, -1]
    assert env.step(4)[1] == 4.0
    env.close()
    backend.close()
    serve.result()
