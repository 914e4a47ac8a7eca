"""Bad input gets a clear error: calls out of order, values that do not fit."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest

import rlay
from tests.peers import BACKENDS, FACES, MODES, WATCHDOG, Task, hosted
from tests.toys import Counter, Mishap

CHANNEL = "bad"


@pytest.mark.parametrize("mode", MODES)
def test_calls_out_of_order_send_nothing(mode: str) -> None:
    with hosted(mode, Counter(), CHANNEL) as env:
        with pytest.raises(rlay.LocalProtocolError, match=r"STEP is not allowed.*reset\(\) first"):
            env.step(0)
        with pytest.raises(rlay.LocalProtocolError, match="nothing is pending"):
            env.wait()
        env.reset()
        assert env.step(1)[1] == 1.0
        with pytest.raises(rlay.LocalProtocolError, match="nothing is pending"):
            env.wait()
        env.close()
        with pytest.raises(rlay.LocalProtocolError, match="closed"):
            env.step(0)


@pytest.mark.parametrize("mode", MODES)
def test_backends_want_an_env_or_spaces(mode: str) -> None:
    with pytest.raises(rlay.LocalProtocolError, match="give an env, or both"):
        BACKENDS[mode](CHANNEL)
    toy = Counter()
    settings = {"observation_space": toy.observation_space, "action_space": toy.action_space}
    with contextlib.closing(BACKENDS[mode](CHANNEL, **settings)) as backend:
        with pytest.raises(rlay.LocalProtocolError, match="needs an env"):
            backend.serve()
        with pytest.raises(rlay.LocalProtocolError, match="no request is open"):
            backend.decide(np.zeros(3))
        with pytest.raises(rlay.LocalProtocolError, match="no request is open"):
            backend.fail(ValueError())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("action", [1.5, 2**63, -(2**63) - 1, [1, 2], "1", None, float("nan")])
def test_an_action_that_does_not_fit(mode: str, action: Any) -> None:
    with hosted(mode, Counter(), CHANNEL) as env:
        env.reset()
        with pytest.raises(rlay.LayoutError, match="action"):
            env.step(action)
        # Nothing was sent.
        observation, reward, *_ = env.step(9)
        assert (observation.tolist(), reward) == ([1, 1, 9], 9.0)


@pytest.mark.parametrize("mode", MODES)
def test_seeds(mode: str) -> None:
    with hosted(mode, Counter(), CHANNEL) as env:
        for seed in (None, 0, 1, 2**63, 2**64 - 1):
            assert env.reset(seed=seed)[1]["seed"] == seed
        for seed in (2**64, 2**100):
            with pytest.raises(rlay.LayoutError, match=r"seed.*0 to 2"):
                env.reset(seed=seed)
        for seed in (-1, 1.5, "1"):
            with pytest.raises(Exception, match=r"(?i)seed"):
                env.reset(seed=seed)  # type: ignore[arg-type]
        assert env.reset(seed=3)[1]["seed"] == 3


@pytest.mark.parametrize("mode", MODES)
def test_options(mode: str) -> None:
    with hosted(mode, Counter(), CHANNEL) as env:
        options = {"level": 3, "array": np.arange(6, dtype="<i2").reshape(2, 3), "deep": [(1, b"")]}
        back = env.reset(options=options)[1]["options"]
        assert list(back) == list(options)
        assert back["array"].dtype == np.int16
        assert back["array"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert back["deep"] == [(1, b"")]
        assert env.reset()[1]["options"] is None
        with pytest.raises(rlay.LayoutError, match=r"options.*what"):
            env.reset(options={"what": object()})
        with pytest.raises(rlay.BodyTooLargeError, match="request_body") as caught:
            env.reset(options={"small": 1, "huge": bytes(70_000)})
        assert caught.value.key == 'options["huge"]'
        assert caught.value.size > caught.value.capacity == 65536
        assert env.reset(options={})[1]["options"] == {}


@pytest.mark.parametrize("mode", MODES)
def test_a_body_too_large_in_the_environment(mode: str) -> None:
    toy = Counter()
    with hosted(mode, toy, CHANNEL, reply_body=512) as env:
        env.reset()
        toy.info = {"huge": bytes(1000)}
        with pytest.raises(rlay.RemoteError, match=r"BodyTooLargeError.*huge.*reply_body"):
            env.step(1)
        toy.info = {}
        env.reset()
        assert env.step(2)[1] == 2.0
        with pytest.raises(rlay.BodyTooLargeError, match="request_body"):
            env.call("add", bytes(70_000))
        with pytest.raises(rlay.RemoteError, match="BodyTooLargeError"):
            env.call("add", "x" * 600, "y")
        assert env.step(3)[1] == 3.0


@pytest.mark.parametrize("mode", MODES)
def test_a_reply_that_does_not_fit(mode: str) -> None:
    toy = Counter()
    with hosted(mode, toy, CHANNEL) as env:
        env.reset()
        toy.step = lambda action: (np.zeros(4), 0.0, False, False, {})  # type: ignore[method-assign]
        with pytest.raises(rlay.RemoteError, match=r"LayoutError.*shape \(4,\), expected \(3,\)"):
            env.step(1)
        toy.step = lambda action: (np.zeros(3), "a lot", False, False, {})  # type: ignore
        env.reset()
        with pytest.raises(rlay.RemoteError, match="reward"):
            env.step(1)


# The environment fails.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["reset", "step", "render"])
def test_the_environment_raises(mode: str, method: str) -> None:
    toy = Counter(render_mode="ansi")
    with hosted(mode, toy, CHANNEL) as env:
        env.reset()
        toy.plan[method] = "raise"
        with pytest.raises(rlay.RemoteError) as caught:
            env.step(1) if method == "step" else getattr(env, method)()
        error = caught.value
        assert (error.type, error.message) == ("Mishap", f"told to fail in {method}")
        assert 'raise Mishap(f"told to fail in {method}")' in error.remote_traceback
        toy.plan.clear()
        env.reset()
        assert env.step(1)[1] == 1.0


@pytest.mark.parametrize("mode", MODES)
def test_the_environment_exits(mode: str) -> None:
    toy = Counter(plan={"step": "sys.exit"})
    backend = BACKENDS[mode](CHANNEL, toy)
    task = Task(lambda: backend.__enter__().serve(sessions=1) or backend.close())
    env = FACES[mode](CHANNEL, timeout=WATCHDOG, attach_timeout=WATCHDOG)
    env.reset()
    with pytest.raises(rlay.RemoteError, match="SystemExit: 7"):
        env.step(1)
    with pytest.raises(SystemExit):
        task.result()
    backend.close()
    with pytest.raises(rlay.PeerClosedError):
        env.reset()
    env.close()


def test_an_error_without_words() -> None:
    class Mute(Mishap):
        def __str__(self) -> str:
            raise RuntimeError("not even that")

    def fail(_: Any) -> Any:
        raise Mute

    toy = Counter()
    with hosted("ClientEnv", toy, CHANNEL) as env:
        env.reset()
        toy.step = fail  # type: ignore[method-assign]
        with pytest.raises(rlay.RemoteError) as caught:
            env.step(1)
        assert caught.value.type == "Mute"
        env.reset()
