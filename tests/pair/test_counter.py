"""No off-by-one: ``step(k)`` gives the result of ``k``, whatever happened before."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest

import rlay
from rlay import atomics
from tests.peers import MODES, hosted, until
from tests.toys import Counter

pytestmark = pytest.mark.parametrize("mode", MODES)


def check_steps(env: Any, *actions: int, begin: int = 1) -> None:
    """Step, and check that each result is that of its action."""
    for steps, action in enumerate(actions, begin):
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation.tolist()[1:] == [steps, action]
        assert (reward, terminated, truncated, info["echo"]) == (action, False, False, action)


def check_reset(env: Any, seed: int) -> None:
    """Reset, and check that the result is that of this reset."""
    observation, info = env.reset(seed=seed, options={"seed": seed})
    assert observation.tolist()[1:] == [0, -1]
    assert (info["seed"], info["options"]) == (seed, {"seed": seed})


def test_every_step_returns_the_result_of_its_action(mode: str) -> None:
    with hosted(mode, Counter()) as env:
        check_reset(env, 1)
        check_steps(env, *range(100, 0, -1))


def test_after_a_reset_in_mid_episode(mode: str) -> None:
    with hosted(mode, Counter()) as env:
        for seed in range(5):
            check_reset(env, seed)
            check_steps(env, 9, 8, 7)


def test_after_a_time_out_in_step(mode: str) -> None:
    toy = Counter()
    with hosted(mode, toy) as env:
        check_reset(env, 1)
        check_steps(env, 5)
        toy.plan["step"] = "block"
        env.timeout = 0.0
        with pytest.raises(rlay.ChannelTimeoutError, match="reply to STEP"):
            env.step(6)
        # Late, not lost: and nothing else may be sent meanwhile.
        for call in (lambda: env.step(7), env.reset, lambda: env.call("add", 1)):
            with pytest.raises(rlay.LocalProtocolError, match="pending"):
                call()
        with pytest.raises(rlay.ChannelTimeoutError):
            env.wait(0.0)
        toy.let_go()
        env.timeout = None
        observation, reward, *_ = env.wait()
        assert (observation.tolist()[1:], reward) == ([2, 6], 6.0)
        check_steps(env, 7, 8, begin=3)


def test_after_a_time_out_in_reset(mode: str) -> None:
    toy = Counter(plan={"reset": "block"})
    with hosted(mode, toy) as env:
        env.timeout = 0.0
        with pytest.raises(rlay.ChannelTimeoutError, match="reply to RESET"):
            env.reset(seed=4)
        toy.let_go()
        observation, info = env.wait(None)
        assert (observation.tolist()[1:], info["seed"]) == ([0, -1], 4)
        env.timeout = None
        check_steps(env, 7, 8)


@pytest.mark.parametrize("times", [1, 20])
def test_after_many_time_outs_no_reply_is_shifted(mode: str, times: int) -> None:
    with hosted(mode, Counter()) as env:
        check_reset(env, 1)
        for k in range(1, times + 1):
            env.timeout = 0.0
            try:
                observation, *_ = env.step(k)
            except rlay.ChannelTimeoutError:
                observation, *_ = env.wait(None)
            assert observation.tolist()[1:] == [k, k]


@pytest.mark.parametrize("method", ["step", "reset"])
def test_after_a_remote_error(mode: str, method: str) -> None:
    toy = Counter()
    with hosted(mode, toy) as env:
        check_reset(env, 1)
        check_steps(env, 1, 2)
        toy.plan[method] = "raise"
        with pytest.raises(rlay.RemoteError, match=f"told to fail in {method}") as caught:
            env.step(3) if method == "step" else env.reset()
        assert caught.value.type == "Mishap"
        assert "toys.py" in caught.value.remote_traceback
        toy.plan.clear()
        # The environment's state is unknown: only a reset starts an episode.
        with pytest.raises(rlay.LocalProtocolError, match="reset"):
            env.step(4)
        check_reset(env, 2)
        check_steps(env, 5, 6)


def test_a_remote_error_in_render_or_call_leaves_the_episode(mode: str) -> None:
    toy = Counter(render_mode="ansi", plan={"render": "raise"})
    with hosted(mode, toy) as env:
        check_reset(env, 1)
        with pytest.raises(rlay.RemoteError, match="told to fail in render"):
            env.render()
        with pytest.raises(rlay.RemoteError, match="TypeError"):
            env.call("add")
        check_steps(env, 1, 2)


@pytest.mark.parametrize("pending", [False, True])
def test_after_reattach(mode: str, pending: bool) -> None:
    toy = Counter()
    with hosted(mode, toy) as env:
        check_reset(env, 1)
        check_steps(env, 1)
        if pending:
            toy.plan["step"] = "block"
            env.timeout = 0.0
            with pytest.raises(rlay.ChannelTimeoutError):
                env.step(6)
            toy.let_go()
            env.timeout = None
        env.reattach()
        with pytest.raises(rlay.LocalProtocolError, match="reset"):
            env.step(1)
        check_reset(env, 2)
        check_steps(env, 2, 3)


def test_after_calls_and_renders_between_steps(mode: str) -> None:
    with hosted(mode, Counter(render_mode="ansi")) as env:
        assert env.call("add", 1, right=2) == 3
        assert env.render() == "step 0"
        check_reset(env, 1)
        for k in range(1, 6):
            check_steps(env, 10 * k, begin=k)
            assert env.render() == f"step {k}"
            assert env.call("add", k) == k + 1


def test_an_interrupt_on_any_line_never_shifts_a_reply(mode: str) -> None:
    """Ctrl-C between any two lines of a step: not sent, or pending, and never shifted."""
    lines = 0
    recovered = 0
    # No signal comes between the lines of the guard itself: there is no call between them.
    guard = getattr(atomics.Guard.__call__, "__code__", None)

    def interrupt_at(wanted: int) -> Any:
        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal lines
            name = frame.f_globals.get("__name__", "")
            if not name.startswith("rlay") or frame.f_code is guard:
                return None
            if event == "line":
                lines += 1
                if lines == wanted:
                    raise KeyboardInterrupt
            return trace

        return trace

    with hosted(mode, Counter()) as env:
        check_reset(env, 1)
        for wanted in range(1, 10_000):
            lines = 0
            done = False
            before = sys.gettrace()
            sys.settrace(interrupt_at(wanted))
            try:
                observation, reward, *_ = env.step(wanted)
                done = True
            except KeyboardInterrupt:
                done = False
            finally:
                sys.settrace(before)
            if not done:
                try:
                    observation, reward, *_ = env.wait()
                    recovered += 1
                except rlay.LocalProtocolError:
                    reward = math.nan  # not sent, or already answered
            if done or not math.isnan(reward):
                assert observation.tolist()[2] == wanted
                assert reward == wanted
            check_reset(env, wanted)
            if done:
                break
            check_steps(env, 1, 2)
    assert done
    assert recovered > 0


def test_two_environments_do_not_mix(mode: str) -> None:
    with hosted(mode, Counter(who="a"), "a") as a, hosted(mode, Counter(who="b"), "a.b") as b:
        assert a.reset()[1]["who"] == "a"
        assert b.reset()[1]["who"] == "b"
        for k in range(1, 20):
            check_steps(a, k, begin=k)
            check_steps(b, 1000 + k, begin=k)


def test_a_busy_environment_does_not_hold_up_close(mode: str) -> None:
    toy = Counter()
    with hosted(mode, toy) as env:
        check_reset(env, 1)
        toy.plan["step"] = "block"
        env.timeout = 0.0
        with pytest.raises(rlay.ChannelTimeoutError):
            env.step(1)
        until(toy.entered.is_set, "the environment is in its step")
        env.close()
        env.close()
        for call in (lambda: env.step(1), env.reset, env.wait, env.reattach, env.render):
            with pytest.raises(rlay.LocalProtocolError, match="closed"):
                call()
