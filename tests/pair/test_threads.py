"""Two threads on one endpoint: the second is refused, the first gets its right reply.

And ``close()``, which may come from any thread at any time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rlay
from rlay import atomics, lifetime
from rlay.envs import remote_env
from tests.peers import (
    BACKENDS,
    FACES,
    MODES,
    PATIENT,
    WATCHDOG,
    Task,
    hang,
    hosted,
    serving,
    until,
)
from tests.toys import Counter
from tests.vector_toys import vector

CHANNEL = "threads"

both_modes = pytest.mark.parametrize("mode", MODES)


class Asked(Counter):
    """A counter with a method and an attribute that can hang, too."""

    def ask(self, value: int) -> int:
        self._meet("ask")
        return value

    @property
    def asked(self) -> int:
        return 0

    @asked.setter
    def asked(self, value: int) -> None:
        self._meet("asked")


class NoGuard:
    """What a guard must be better than."""

    owner = 0
    refusal = after = None
    stop = False

    def __init__(self, in_use: object) -> None:
        pass

    def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    def settle(self) -> bool:
        if self.after is not None:
            self.after()
        return True


@pytest.fixture
def no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make endpoints without a guard, which the compiled step insists on."""
    monkeypatch.setattr(atomics, "Guard", NoGuard)
    monkeypatch.setattr(atomics, "Exchange", None)


def let_in(calls: dict[str, Callable[[], Any]]) -> dict[str, str]:
    """Make these calls while another is in progress; return those that were not refused."""
    wrong: dict[str, str] = {}
    for name, call in calls.items():
        task = Task(call)
        try:
            wrong[name] = f"returned {task.result()!r}"
        except rlay.LocalProtocolError as error:
            if "in use by another call" not in str(error):
                wrong[name] = repr(error)
        except BaseException as error:
            wrong[name] = repr(error)
    return wrong


def calls_of(env: Any) -> dict[str, Callable[[], Any]]:
    """Return everything one can do with an environment, but for close."""
    return {
        "step": lambda: env.step(77),
        "reset": lambda: env.reset(seed=77),
        "render": env.render,
        "call": lambda: env.call("ask", 77),
        "set_attr": lambda: env.set_attr("asked", 77),
        "wait": lambda: env.wait(0.5),
        "reattach": env.reattach,
    }


#: The first thread's call, where it hangs, and whether its result is right.
FIRST: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], bool]]] = {
    "step": (
        "step",
        lambda env: env.step(5),
        lambda result: result[0].tolist() == [1, 2, 5] and result[1] == 5.0,
    ),
    "reset": ("reset", lambda env: env.reset(seed=8), lambda result: result[1]["seed"] == 8),
    "render": ("render", lambda env: env.render(), lambda result: result == "step 1"),
    "call": ("ask", lambda env: env.call("ask", 6), lambda result: result == 6),
    "set_attr": ("asked", lambda env: env.set_attr("asked", 6), lambda result: result is None),
}


def wait_of(env: Any) -> Any:
    """Time out in a step, and wait for it."""
    env.timeout = 0.0
    with pytest.raises(rlay.ChannelTimeoutError):
        env.step(5)
    env.timeout = WATCHDOG
    return env.wait()


FIRST["wait"] = ("step", wait_of, FIRST["step"][2])


@both_modes
@pytest.mark.parametrize("first", FIRST)
def test_the_second_thread_is_refused_and_harms_nothing(mode: str, first: str) -> None:
    where, call, is_right = FIRST[first]
    toy = Asked(render_mode="ansi")
    with hosted(mode, toy, CHANNEL) as env:
        env.reset()
        env.step(1)
        task = hang(toy, where, call, env)
        until(lambda: env.guard.owner and env.timeout == WATCHDOG, "the first thread waits")
        assert let_in(calls_of(env)) == {}
        toy.let_go()
        assert is_right(task.result())
        env.reset()
        assert env.step(9)[1] == 9.0


@pytest.mark.usefixtures("no_guard")
@both_modes
def test_without_a_guard_a_second_thread_gets_in(mode: str) -> None:
    """The check above sees it."""
    toy = Asked()
    with hosted(mode, toy, CHANNEL) as env:
        env.reset()
        first = hang(toy, "step", env.step, 5)
        wrong = let_in({"wait": lambda: env.wait(0.1), "reset": env.reset})
        assert wrong["wait"].startswith("ChannelTimeoutError")
        assert "a step is pending" in wrong["reset"]
        toy.release.set()
        with contextlib.suppress(rlay.LocalProtocolError):
            first.result()


@both_modes
def test_two_threads_that_step_at_once(mode: str) -> None:
    """Each call is refused, or gives the result of its own action."""
    wrong: list[Any] = []
    done, refused = [0, 0], [0, 0]

    def hammer(which: int) -> None:
        for k in range(20_000):
            action = 2 * k + which
            try:
                observation, reward, *_ = env.step(action)
            except rlay.LocalProtocolError as error:
                refused[which] += 1
                if "in use" not in str(error):
                    wrong.append(error)
            except BaseException as error:
                wrong.append(error)
            else:
                done[which] += 1
                if (observation.tolist()[2], reward) != (action, action):
                    wrong.append((action, observation, reward))
            if wrong or (sum(refused) > 20 and sum(done) > 50):
                return

    with hosted(mode, Counter(), CHANNEL) as env:
        env.reset()
        for task in [Task(hammer, 0), Task(hammer, 1)]:
            task.result()
        assert wrong == []
        assert env.step(3)[0].tolist() == [1, sum(done) + 1, 3]


@pytest.mark.parametrize("first", ["step", "recv"])
def test_a_vector_refuses_a_second_thread(first: str) -> None:
    made: list[Asked] = []

    def make() -> Asked:
        made.append(Asked(render_mode="ansi"))
        return made[-1]

    with vector([2, 1], make) as envs:
        envs.reset()
        actions = np.arange(3)
        calls: dict[str, Callable[[], Any]] = {
            "step": lambda: envs.step(actions),
            "reset": envs.reset,
            "send": lambda: envs.send(actions),
            "recv": lambda: envs.recv(0.5),
            "wait": lambda: envs.wait(0.5),
            "render": envs.render,
            "call": lambda: envs.call("ask", 1),
            "get_attr": lambda: envs.get_attr("who"),
            "set_attr": lambda: envs.set_attr("asked", 1),
        }
        made[2].plan["step"] = "block"
        if first == "recv":
            envs.send([2], [2])
        task = Task(envs.step, actions) if first == "step" else Task(envs.recv)
        until(made[2].entered.is_set, "an environment hangs")
        until(lambda: envs.guard.owner, "the first thread waits")
        assert let_in(calls) == {}
        made[2].release.set()
        assert task.result()[0][-1].tolist() == [1, 1, 2]
        assert envs.step(actions)[1].tolist() == [0, 1, 2]


class Game:
    """A backend with a loop of its own."""

    def __init__(self, mode: str) -> None:
        toy = Counter()
        spaces = {"observation_space": toy.observation_space, "action_space": toy.action_space}
        self.backend = BACKENDS[mode](CHANNEL, **spaces, **PATIENT)

    def calls(self) -> dict[str, Callable[[], Any]]:
        return {
            "next_request": lambda: self.backend.next_request(0.5),
            "decide": lambda: self.backend.decide(np.zeros(3, np.int64)),
            "fail": lambda: self.backend.fail(ValueError("x")),
        }


@both_modes
def test_a_game_of_two_threads_is_refused(mode: str) -> None:
    game = Game(mode)
    with contextlib.closing(game.backend):
        attaching = Task(game.backend.next_request)
        until(lambda: game.backend.guard.owner, "the game waits for an agent")
        assert let_in(game.calls()) == {}
        env = Task(FACES[mode], CHANNEL, **PATIENT).result()
        resetting = Task(env.reset, seed=3)
        assert attaching.result().seed == 3
        deciding = Task(game.backend.decide, np.array([1, 0, -1]))
        assert resetting.result()[0].tolist() == [1, 0, -1]
        until(lambda: game.backend.guard.owner, "the game waits for a request")
        assert let_in(game.calls()) == {}
        stepping = Task(env.step, 4)
        assert deciding.result().action == 4
        closing = Task(game.backend.decide, np.array([1, 1, 4]), 4.0)
        assert stepping.result()[0].tolist() == [1, 1, 4]
        env.close()
        assert closing.result() is None


@both_modes
def test_a_backend_serves_in_one_thread(mode: str) -> None:
    with serving(mode, Counter(), CHANNEL) as backend:
        with contextlib.closing(FACES[mode](CHANNEL, **PATIENT)) as env:
            env.reset()
            wrong = let_in({"serve": backend.serve, "next_request": backend.next_request})
            assert wrong == {}
            assert env.step(3)[1] == 3.0


@pytest.mark.parametrize("side", ["server", "client"])
def test_an_endpoint_attaches_in_one_thread(side: str) -> None:
    make, name = {"server": (rlay.MemServer, "accept"), "client": (rlay.MemClient, "attach")}[side]
    endpoint = make(CHANNEL, rlay.Role.AGENT, features=rlay.Feature.NONE)
    task = Task(getattr(endpoint, name), WATCHDOG)
    until(lambda: endpoint.guard.owner, "the first thread waits")
    assert let_in({name: lambda: getattr(endpoint, name)(0.5)}) == {}
    endpoint.close()
    with pytest.raises(rlay.LocalProtocolError, match="closed"):
        task.result()


# Closing from another thread.


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
    where, call, _ = FIRST[first]
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
