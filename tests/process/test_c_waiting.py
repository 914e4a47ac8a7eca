"""The reference port in C: its ways of waiting."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import rlay
from tests.c_programs import Build, Start, finish, needs_make
from tests.c_script import PEER_LOST, SCRIPT_LINES
from tests.peers import WATCHDOG, until

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(sys.platform == "win32", reason="the reference port is for POSIX systems"),
    needs_make,
]

STRATEGIES = ["adaptive", "spin", "backoff", "block"]
SERVER_WAITING = 0x380


@pytest.mark.parametrize("wait", STRATEGIES)
def test_a_pair_plays_with_each_way_of_waiting(build: Build, start: Start, wait: str) -> None:
    program = build("scripted_peer")
    sides = [("server", "env"), ("client", "agent")]
    env, agent = (
        start(program, "--side", side, "--role", role, "--channel", "pair", RLAY_WAIT=wait)
        for side, role in sides
    )
    assert finish(agent).splitlines() == SCRIPT_LINES
    finish(env)


@pytest.mark.parametrize("wait", STRATEGIES)
def test_a_dead_peer_is_noticed_with_each_way_of_waiting(
    build: Build, start: Start, wait: str
) -> None:
    program = build("scripted_peer")
    pair = ["--channel", "pair"]
    agent = start(program, "--side", "server", "--role", "agent", *pair, RLAY_WAIT=wait)
    env = ["--side", "client", "--role", "env", *pair]
    victim = start(program, *env, "--die-at", "request_read", "--die-count", "3")
    victim.communicate(timeout=WATCHDOG)
    assert victim.returncode == -9
    _, err = agent.communicate(timeout=WATCHDOG)
    assert agent.returncode == 3
    assert f"error {PEER_LOST}: " in err


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be chosen")
def test_a_pair_plays_on_one_processor(build: Build, start: Start) -> None:
    program = build("scripted_peer")
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(ours)})  # children inherit it
    try:
        arguments = ["--channel", "pair", "--role"]
        env = start(program, "--side", "server", *arguments, "env")
        agent = start(program, "--side", "client", *arguments, "agent")
    finally:
        os.sched_setaffinity(0, ours)
    assert finish(agent).splitlines() == SCRIPT_LINES
    finish(env)


@pytest.mark.parametrize("wait", STRATEGIES)
def test_only_a_sleeper_asks_to_be_woken(
    build: Build, start: Start, channel_root: Path, wait: str
) -> None:
    server = start(build("cartpole_env"), "--channel", "one", "--once", RLAY_WAIT=wait)
    path = channel_root / "one.rlay"
    until(path.exists, "the server has published")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        control = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        stack.callback(control.close)
        if wait in ("adaptive", "block"):
            until(lambda: control[SERVER_WAITING] == 1, "the server sleeps")
        env = rlay.ClientEnv("one", timeout=WATCHDOG, attach_timeout=WATCHDOG)
        stack.callback(env.close)
        for episode in range(3):
            observation, _ = env.reset(seed=episode)
            assert observation.dtype == np.float32
            ended = False
            while not ended:
                _, _, terminated, truncated, _ = env.step(1)
                ended = terminated or truncated
                if wait in ("spin", "backoff"):
                    assert control[SERVER_WAITING] == 0
    finish(server)


def test_an_unknown_way_of_waiting_is_an_error(
    build: Build, start: Start, channel_root: Path
) -> None:
    server = start(build("cartpole_env"), "--channel", "one", "--once", RLAY_WAIT="quickly")
    _, err = server.communicate(timeout=WATCHDOG)
    assert server.returncode == 3
    assert "RLAY_WAIT='quickly': use one of adaptive, spin, backoff, block" in err
    assert list(channel_root.iterdir()) == []
