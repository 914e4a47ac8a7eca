"""Ctrl-C, forks, and a peer that is stopped: real signals to real processes."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import rlay
from tests.peers import BACKENDS, FACES, MODES, PATIENT, WATCHDOG, say, until
from tests.toys import Counter

CHANNEL = "interrupt"

pytestmark = pytest.mark.parametrize("mode", MODES)


def serve(mode: str, plan: dict[str, Any] | None = None) -> None:
    """Host a Counter for one agent; runs in a child."""
    with BACKENDS[mode](CHANNEL, Counter(plan=plan), **PATIENT) as backend:
        backend.serve(sessions=1)


def interrupted_agent(mode: str, gate: str) -> None:
    """Step while the environment hangs, and go on after Ctrl-C; runs in a child."""
    env = FACES[mode](CHANNEL, **PATIENT)
    env.reset()
    for action in range(1, 4):
        try:
            env.step(action)
            say("no interrupt")
        except KeyboardInterrupt:
            say(["interrupted", action])
        with contextlib.suppress(KeyboardInterrupt):
            env.wait()
        with contextlib.suppress(rlay.ChannelTimeoutError):
            env.wait(0.0)
        Path(gate).touch()
        observation, reward, *_ = env.wait(None)
        say([observation.tolist(), reward])
        os.unlink(gate)
        os.unlink(gate + ".entered")
    Path(gate).touch()
    say(env.step(9)[1])
    env.close()


def test_wait_gets_the_right_reply_after_ctrl_c(mode: str, spawn: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    entered = tmp_path / "gate.entered"
    host = spawn(serve, mode, {"step": f"until {gate}"})
    agent = spawn(interrupted_agent, mode, str(gate))
    for action in range(1, 4):
        until(entered.exists, "the environment is in its step")
        agent.signal(signal.SIGINT)
        agent.await_saying(["interrupted", action])
        # And once more while it waits again.
        agent.signal(signal.SIGINT)
        agent.await_saying([[1, action, action], float(action)])
    assert agent.wait() == 0, agent.output()
    assert agent.said()[-1] == 9.0
    assert "no interrupt" not in agent.said()
    assert host.wait() == 0, host.output()


def test_ctrl_c_ends_a_host_with_a_goodbye(mode: str, spawn: Any) -> None:
    """Served alone or in mid-session: KeyboardInterrupt, no traceback of ours, nothing left."""
    host = spawn(serve, mode)
    env = FACES[mode](CHANNEL, **PATIENT)
    try:
        env.reset()
        host.signal(signal.SIGINT)
        assert host.wait() == 1
        assert "KeyboardInterrupt" in host.output()
        with pytest.raises(rlay.PeerClosedError):
            env.step(1)
    finally:
        env.close()


def test_a_stopped_peer_is_late_and_not_lost(mode: str, spawn: Any) -> None:
    host = spawn(serve, mode)
    env = FACES[mode](CHANNEL, **PATIENT)
    try:
        env.reset()
        host.signal(signal.SIGSTOP)
        env.timeout = 0.1
        with pytest.raises(rlay.ChannelTimeoutError, match="reply to STEP"):
            env.step(5)
        host.signal(signal.SIGCONT)
        observation, reward, *_ = env.wait(WATCHDOG)
        assert (observation.tolist(), reward) == ([1, 1, 5], 5.0)
    finally:
        host.signal(signal.SIGCONT)
        env.timeout = WATCHDOG
        env.close()
    assert host.wait() == 0, host.output()


def forking_host(mode: str) -> None:
    """Fork in mid-session, then be killed while the child lives; runs in a child."""
    backend = BACKENDS[mode](CHANNEL, Counter(), **PATIENT)
    session = backend._attach(WATCHDOG)
    request = session.next_request(WATCHDOG)
    child = os.fork()
    if child == 0:
        say(["child", os.getpid()])
        signal.pause()
        os._exit(0)
    backend._perform(session, request)
    session.next_request(WATCHDOG)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_parent_is_noticed_while_its_child_lives(mode: str, spawn: Any) -> None:
    host = spawn(forking_host, mode)
    env = FACES[mode](CHANNEL, **PATIENT)
    child = None
    try:
        env.reset()
        until(host.said, "the host has forked")
        child = host.said()[0][1]
        with pytest.raises(rlay.PeerLostError):
            env.step(1)
        os.kill(child, 0)
    finally:
        env.close()
        if child is not None:
            os.kill(child, signal.SIGKILL)
    # The next server clears away what the killed one left.
    rlay.ServerBackend(CHANNEL, Counter()).close()


def forking_agent(mode: str) -> None:
    """Fork in mid-session, use everything in the child, then go on; runs in a child."""
    env = FACES[mode](CHANNEL, **PATIENT)
    env.reset()
    env.step(1)
    child = os.fork()
    if child == 0:
        for name, call in {
            "step": lambda: env.step(2),
            "reset": env.reset,
            "render": env.render,
            "call": lambda: env.call("add", 1),
            "wait": env.wait,
            "reattach": env.reattach,
        }.items():
            try:
                call()
                say([name, "was allowed"])
            except Exception as error:
                say([name, type(error).__name__])
        env.close()
        say("child closed")
        os._exit(0)
    os.waitpid(child, 0)
    observation, reward, *_ = env.step(3)
    say([observation.tolist(), reward])
    env.close()


def test_a_forked_child_may_use_nothing(mode: str, spawn: Any) -> None:
    host = spawn(serve, mode)
    agent = spawn(forking_agent, mode)
    assert agent.wait() == 0, agent.output()
    *child, closed, result = agent.said()
    assert child == [
        [name, "LocalProtocolError"]
        for name in ("step", "reset", "render", "call", "wait", "reattach")
    ]
    assert closed == "child closed"
    assert result == [[1, 2, 3], 3.0]
    assert host.wait() == 0, host.output()


def test_a_forked_child_may_not_serve(mode: str) -> None:
    toy = Counter()
    settings = {"observation_space": toy.observation_space, "action_space": toy.action_space}
    with contextlib.closing(BACKENDS[mode](CHANNEL, **settings, **PATIENT)) as backend:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                backend.next_request(0.0)
                os.write(write, b"was allowed")
            except Exception as error:
                os.write(write, type(error).__name__.encode())
            finally:
                os._exit(0)
        os.close(write)
        said = os.read(read, 100)
        os.close(read)
        os.waitpid(child, 0)
        assert said == b"LocalProtocolError"
