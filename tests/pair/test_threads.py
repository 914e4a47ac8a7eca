"""Two threads on one endpoint: the second is refused, the first gets its right reply."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rlay
from rlay import atomics
from tests.hanging import HANGING, Asked
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


@both_modes
@pytest.mark.parametrize("first", HANGING)
def test_the_second_thread_is_refused_and_harms_nothing(mode: str, first: str) -> None:
    where, call, is_right = HANGING[first]
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
