"""A child of fork has nothing: whatever it does, the parent's channel is the parent's.

Every endpoint and face; see also test_interrupt.py, where the parent is killed by its loop.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rlay
from rlay.channel.locks import OsLock
from tests.peers import BACKENDS, FACES, MODES, PATIENT, WATCHDOG, Task, hang, say, until
from tests.toys import Counter
from tests.vector_toys import serving as serving_lanes

CHANNEL = "fork"


def in_child(body: Callable[[], Any]) -> str:
    """Run this in a forked child, which ends without any cleaning up; return what it returned."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(body())
        except BaseException as error:
            said = repr(error)
        finally:
            os.write(write, said.encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        said = stream.read().decode()
    os.waitpid(child, 0)
    return said


def allowed(calls: dict[str, Callable[[], Any]]) -> list[str]:
    """Return which of these calls are not refused because of the fork, and what they did."""
    wrong = []
    for name, call in calls.items():
        try:
            wrong.append(f"{name} returned {call()!r}")
        except rlay.LocalProtocolError as error:
            if "belongs to the parent process" not in str(error):
                wrong.append(f"{name}: {error}")
        except BaseException as error:
            wrong.append(f"{name}: {error!r}")
    return wrong


def endings(endpoint: Any) -> str:
    """Do to it, in a child, what must do nothing."""
    endpoint.close()
    endpoint.close()
    endpoint.__dict__.clear()
    gc.collect()
    return "ended"


@pytest.mark.parametrize("mode", MODES)
def test_a_face(mode: str) -> None:
    backend = BACKENDS[mode](CHANNEL, Counter(), **PATIENT)
    task = Task(backend.serve, sessions=1)
    with contextlib.closing(backend):
        env = FACES[mode](CHANNEL, **PATIENT)
        env.reset()
        calls: dict[str, Callable[[], Any]] = {
            "step": lambda: env.step(1),
            "reset": env.reset,
            "render": env.render,
            "call": lambda: env.call("add", 1),
            "set_attr": lambda: env.set_attr("who", 1),
            "wait": env.wait,
            "reattach": env.reattach,
        }
        assert in_child(lambda: allowed(calls)) == "[]"
        assert in_child(lambda: endings(env)) == "ended"
        assert env.step(3)[0].tolist() == [1, 1, 3]
        env.close()
        task.result()


@pytest.mark.parametrize("mode", MODES)
def test_a_backend(mode: str) -> None:
    toy = Counter()
    spaces = {"observation_space": toy.observation_space, "action_space": toy.action_space}
    backend = BACKENDS[mode](CHANNEL, **spaces, **PATIENT)
    with contextlib.closing(backend):
        attaching = Task(FACES[mode], CHANNEL, **PATIENT)
        resetting = Task(lambda: attaching.result().reset())
        backend.next_request()
        calls: dict[str, Callable[[], Any]] = {
            "decide": lambda: backend.decide(np.zeros(3, np.int64)),
            "next_request": backend.next_request,
            "fail": lambda: backend.fail(ValueError()),
        }
        assert in_child(lambda: allowed(calls)) == "[]"
        assert in_child(lambda: endings(backend)) == "ended"
        deciding = Task(backend.decide, np.array([1, 0, -1]))
        assert resetting.result()[0].tolist() == [1, 0, -1]
        attaching.result().close()
        assert deciding.result() is None


@pytest.mark.parametrize("what", ["MemServer", "MemClient", "ServerBackend", "ClientBackend"])
def test_an_endpoint_that_is_attached_to_nothing(what: str) -> None:
    endpoint: Any
    if what in ("MemServer", "MemClient"):
        endpoint = getattr(rlay, what)(CHANNEL, rlay.Role.AGENT, features=rlay.Feature.NONE)
        call = getattr(endpoint, "accept" if what == "MemServer" else "attach")
    else:
        endpoint = getattr(rlay, what)(CHANNEL, Counter(), attach_timeout=0.0)
        call = lambda _: endpoint.serve()  # noqa: E731
    with contextlib.closing(endpoint):
        assert in_child(lambda: allowed({"attach": lambda: call(0.0)})) == "[]"
        assert in_child(lambda: endings(endpoint)) == "ended"
        with pytest.raises((rlay.ChannelTimeoutError, rlay.ChannelNotFoundError)):
            call(0.0)


def test_a_vector() -> None:
    with serving_lanes([1, 1], Counter) as channels:
        envs = rlay.VectorEnv(channels, timeout=WATCHDOG)
        envs.reset()
        actions = np.arange(2)
        calls: dict[str, Callable[[], Any]] = {
            "step": lambda: envs.step(actions),
            "reset": envs.reset,
            "send": lambda: envs.send(actions),
            "recv": envs.recv,
            "wait": envs.wait,
            "render": envs.render,
            "call": lambda: envs.call("add", 1),
        }
        assert in_child(lambda: allowed(calls)) == "[]"
        assert in_child(lambda: endings(envs)) == "ended"
        assert envs.step(actions)[1].tolist() == [0, 1]
        envs.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_fork_while_another_thread_waits(mode: str) -> None:
    toy = Counter()
    backend = BACKENDS[mode](CHANNEL, toy, **PATIENT)
    serve = Task(backend.serve, sessions=1)
    with contextlib.closing(backend):
        env = FACES[mode](CHANNEL, **PATIENT)
        env.reset()
        stepping = hang(toy, "step", env.step, 5)
        # In the child nobody holds the guard, and nobody is waited for.
        assert in_child(lambda: allowed({"step": lambda: env.step(1)})) == "[]"
        assert in_child(lambda: endings(env)) == "ended"
        assert in_child(lambda: endings(backend)) == "ended"
        toy.release.set()
        assert stepping.result()[1] == 5.0
        env.close()
        serve.result()


class Forks(Counter):
    """Starts processes in its step, as environments do."""

    def step(self, action: Any) -> Any:
        if action == 1:
            subprocess.run([sys.executable, "-c", "pass"], check=True, close_fds=False)
        if action == 2:
            context = multiprocessing.get_context("fork")
            child = context.Process(target=gc.collect)
            child.start()
            child.join()
            assert child.exitcode == 0
        if action == 3:
            assert in_child(lambda: "alive") == "alive"
        return super().step(action)


@pytest.mark.parametrize("mode", MODES)
def test_an_environment_that_forks_while_it_is_served(mode: str) -> None:
    with contextlib.closing(BACKENDS[mode](CHANNEL, Forks(), **PATIENT)) as backend:
        task = Task(backend.serve, sessions=1)
        env = FACES[mode](CHANNEL, **PATIENT)
        env.reset()
        for action in range(5):
            assert env.step(action)[1] == action
        env.close()
        task.result()


def doomed_parent(what: str, keeps_locks: bool) -> None:
    """Attach, fork a child that lives on, and be killed; runs in a child."""
    if keeps_locks:
        OsLock._after_fork = lambda self: None  # type: ignore[method-assign]
    kept: Any
    if what == "backend":
        kept = rlay.ServerBackend(CHANNEL, Counter(), **PATIENT)
        threading.Thread(target=kept.serve, daemon=True).start()
    elif what == "env":
        kept = rlay.ServerEnv(CHANNEL, **PATIENT)
        kept.reset()
    else:
        kept = rlay.VectorEnv(["lanes-0"], **PATIENT)
        kept.reset()
    context = multiprocessing.get_context("fork")
    if what == "env":
        grandchild = context.Process(target=signal.pause)
        grandchild.start()
        say(["grandchild", grandchild.pid])
    else:
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        say(["grandchild", pid])
    signal.pause()


@contextlib.contextmanager
def orphaned(spawn: Any, what: str, keeps_locks: bool = False, ready: Any = None) -> Any:
    """Have a parent killed whose child lives on in the block."""
    parent = spawn(doomed_parent, what, keeps_locks)
    if ready:
        ready()
    until(parent.said, "the parent has forked")
    grandchild = parent.said()[0][1]
    try:
        parent.signal(signal.SIGKILL)
        parent.wait()
        yield
        os.kill(grandchild, 0)
    finally:
        os.kill(grandchild, signal.SIGKILL)


@pytest.mark.leaves_files
@pytest.mark.parametrize("keeps_locks", [False, True], ids=["", "keeps_locks"])
def test_a_dead_backend_whose_child_lives(spawn: Any, keeps_locks: bool) -> None:
    """With locks kept in the child, nobody notices: that is what closing them is for."""
    env: list[Any] = []
    with orphaned(spawn, "backend", keeps_locks, lambda: env.append(attached())):
        env[0].timeout = 0.5
        expected = rlay.ChannelTimeoutError if keeps_locks else rlay.PeerLostError
        with pytest.raises(expected):
            env[0].step(1)
    env[0].close()


def attached() -> Any:
    env = rlay.ClientEnv(CHANNEL, **PATIENT)
    env.reset()
    return env


@pytest.mark.leaves_files
def test_a_dead_agent_whose_child_lives(spawn: Any) -> None:
    with contextlib.closing(rlay.ClientBackend(CHANNEL, Counter(), **PATIENT)) as backend:
        task = Task(backend.serve, sessions=1)
        with orphaned(spawn, "env"):
            task.result()


def test_a_dead_vector_whose_child_lives(spawn: Any) -> None:
    with contextlib.closing(rlay.VectorBackend("lanes-0", Counter, 2, **PATIENT)) as backend:
        task = Task(backend.serve, sessions=1)
        with orphaned(spawn, "vector"):
            task.result()
