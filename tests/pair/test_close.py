"""``close()``, which may come from any thread at any time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rlay
from rlay import lifetime
from rlay.envs import remote_env
from tests.hanging import HANGING, Asked
from tests.peers import BACKENDS, FACES, MODES, PATIENT, WATCHDOG, Task, hang, serving, until
from tests.toys import Counter
from tests.vector_toys import vector

CHANNEL = "close"

both_modes = pytest.mark.parametrize("mode", MODES)


def how_it_ends(waiting: Task, close: Callable[[], None]) -> str:
    """Close in this thread while another waits; say how its call ended."""
    close()
    try:
        waiting.result()
    except rlay.LocalProtocolError as error:
        return "closed" if "this endpoint is closed" in str(error) else repr(error)
    except BaseException as error:
        return repr(error)
    return "returned"


@both_modes
@pytest.mark.parametrize("first", ["step", "reset", "render", "call", "wait"])
def test_close_ends_a_call_that_waits(mode: str, first: str) -> None:
    where, call, _ = HANGING[first]
    toy = Asked(render_mode="ansi")
    with serving(mode, toy, CHANNEL):
        env = FACES[mode](CHANNEL, **PATIENT)
        env.reset()
        env.step(1)
        task = hang(toy, where, call, env)
        until(lambda: env.guard.owner and env.timeout == WATCHDOG, "the call waits")
        assert how_it_ends(task, env.close) == "closed"
        for again in (env.reset, env.wait, lambda: env.step(1), env.render):
            with pytest.raises(rlay.LocalProtocolError, match="closed"):
                again()
        env.close()
        toy.let_go()
        # Nothing is held back: the next agent gets the channel at once.
        with contextlib.closing(FACES[mode](CHANNEL, **PATIENT)) as env:
            env.reset()
            assert env.step(2)[1] == 2.0


@pytest.mark.parametrize("face", [rlay.ClientEnv, rlay.ServerEnv])
def test_a_busy_trainer_is_closed_between_two_steps(face: Any) -> None:
    mode = "ClientEnv" if face is rlay.ClientEnv else "ServerEnv"
    with serving(mode, Counter(), CHANNEL):
        env = face(CHANNEL, **PATIENT)
        env.reset()
        steps = []

        def train() -> None:
            while True:
                steps.append(env.step(len(steps))[1])

        task = Task(train)
        until(lambda: len(steps) > 50, "the trainer steps")
        assert how_it_ends(task, env.close) == "closed"
        assert steps == list(range(len(steps)))


def waits_for_an_agent(backend: Any, mode: str, toy: Any) -> None:
    until(lambda: backend.guard.owner, "the backend waits for an agent")


def has_an_idle_agent(backend: Any, mode: str, toy: Any) -> Any:
    env = FACES[mode](CHANNEL, **PATIENT)
    env.reset()
    env.step(1)
    return env


def has_a_busy_agent(backend: Any, mode: str, toy: Any) -> Any:
    env = has_an_idle_agent(backend, mode, toy)

    def step() -> None:
        with contextlib.suppress(rlay.PeerClosedError):
            while True:
                env.step(1)

    env.task = Task(step)
    return env


@both_modes
@pytest.mark.parametrize("moment", [waits_for_an_agent, has_an_idle_agent, has_a_busy_agent])
def test_close_ends_serve(mode: str, moment: Any, channel_root: Any) -> None:
    toy = Counter()
    backend = BACKENDS[mode](CHANNEL, toy, **PATIENT)
    task = Task(backend.serve)
    env = moment(backend, mode, toy)
    assert how_it_ends(task, backend.close) == "returned"
    assert toy.closed
    if env is not None:
        if moment is has_a_busy_agent:
            env.task.result()
        else:
            with pytest.raises(rlay.PeerClosedError):
                env.step(2)
        env.close()
    assert [path.suffix for path in channel_root.iterdir()] == [".lock", ".lock"]


@both_modes
def test_close_waits_for_an_environment_only_for_a_while(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetime, "_CLOSE_PATIENCE", 0.05)
    toy = Counter()
    backend = BACKENDS[mode](CHANNEL, toy, **PATIENT)
    task = Task(backend.serve)
    env = FACES[mode](CHANNEL, **PATIENT)
    env.reset()
    stepping = hang(toy, "step", env.step, 3)
    backend.close()
    assert not task.done()
    assert not toy.closed
    toy.release.set()
    # What it was at still is answered, and then the thread that served closes.
    assert stepping.result()[1] == 3.0
    task.result()
    assert toy.closed
    with pytest.raises(rlay.PeerClosedError):
        env.step(1)
    env.close()


@both_modes
def test_an_environment_may_close_its_own_backend(mode: str) -> None:
    class Quits(Counter):
        def step(self, action: Any) -> Any:
            backend.close()
            assert not self.closed
            return super().step(action)

    toy = Quits()
    backend = BACKENDS[mode](CHANNEL, toy, **PATIENT)
    task = Task(backend.serve)
    env = FACES[mode](CHANNEL, **PATIENT)
    env.reset()
    assert env.step(3)[1] == 3.0
    task.result()
    assert toy.closed
    with pytest.raises(rlay.PeerClosedError):
        env.step(1)
    env.close()


def test_close_ends_a_vector_that_waits() -> None:
    toys: list[Counter] = []

    def make() -> Counter:
        toys.append(Counter())
        return toys[-1]

    with vector([1, 1], make) as envs:
        envs.reset()
        task = hang(toys[1], "step", envs.step, np.arange(2))
        assert how_it_ends(task, envs.close) == "closed"
        with pytest.raises(rlay.LocalProtocolError, match="closed"):
            envs.reset()


@both_modes
def test_a_close_that_does_not_wait_is_not_clean(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks above see it."""
    monkeypatch.setattr(remote_env, "close", lambda guard, finish: finish())
    toy = Counter()
    with serving(mode, toy, CHANNEL):
        env = FACES[mode](CHANNEL, **PATIENT)
        env.reset()
        task = hang(toy, "step", env.step, 1)
        until(lambda: env._session.pending, "the call waits")
        assert "Error" in how_it_ends(task, env.close)
        toy.release.set()
