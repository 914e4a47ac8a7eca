"""Steps of a VectorEnv that are under way: which results come first, and that none is shifted."""

from __future__ import annotations

import math
from typing import Any

import pytest

import rlay
from tests.peers import until
from tests.vector_toys import Counters, check_steps, vector


def test_after_a_time_out_the_reply_is_waited_for() -> None:
    make = Counters()
    with vector([2, 1], make) as envs:
        envs.reset()
        check_steps(envs, 4)
        make[2].plan["step"] = "block"
        envs.timeout = 0.0
        with pytest.raises(rlay.ChannelTimeoutError, match=r"reply to STEP of .*lane 2 \(worker 1"):
            envs.step([5, 6, 7])
        until(make[2].entered.is_set, "lane 2 steps")
        for call in (
            lambda: envs.step([1, 2, 3]),
            envs.reset,
            lambda: envs.call("add", 1),
            envs.render,
            lambda: envs.send([1, 2, 3]),
        ):
            with pytest.raises(rlay.LocalProtocolError, match="pending"):
                call()
        with pytest.raises(rlay.ChannelTimeoutError):
            envs.wait(0.0)
        make[2].let_go()
        observations, rewards, *_ = envs.wait(None)
        assert (observations[:, 2].tolist(), rewards.tolist()) == ([5, 6, 7], [5.0, 6.0, 7.0])
        with pytest.raises(rlay.LocalProtocolError, match="nothing is pending"):
            envs.wait()
        for endless in (None, math.inf):
            envs.timeout = endless
            check_steps(envs, 8, 9)


@pytest.mark.parametrize("sent", [False, True])
def test_an_interrupt_while_sending_shifts_nothing(
    sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vector([1, 1, 1], Counters()) as envs:
        envs.reset()
        check_steps(envs, 1)
        session = envs._workers[1].session

        def interrupted(*actions: Any) -> None:
            monkeypatch.undo()
            if sent:
                session.post_step(*actions)
            raise KeyboardInterrupt

        monkeypatch.setattr(session, "post_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            envs.step([5, 6, 7])
        with pytest.raises(rlay.LocalProtocolError, match="pending"):
            envs.step([5, 6, 7])
        # Those that were not asked have no result, which is said and not made up.
        with pytest.raises(rlay.LocalProtocolError, match="interrupt cut short"):
            envs.wait()
        missing = "[2]" if sent else "[1, 2]"
        with pytest.raises(rlay.LocalProtocolError, match="reset") as caught:
            envs.step([5, 6, 7])
        assert missing in str(caught.value)
        envs.reset()
        check_steps(envs, 8, 9)


def test_first_ready_are_received_first() -> None:
    make = Counters()
    with vector([1, 2], make) as envs:
        envs.reset()
        with pytest.raises(rlay.LocalProtocolError, match="nothing is in flight"):
            envs.recv()
        make[0].plan["step"] = "block"
        envs.send([5, 6, 7])
        observations, rewards, _, _, infos = envs.recv()
        assert infos["env_id"].tolist() == [1, 2]
        assert (observations[:, 2].tolist(), rewards.tolist()) == ([6, 7], [6.0, 7.0])
        with pytest.raises(rlay.LocalProtocolError, match="outstanding"):
            envs.send([1], [0])
        with pytest.raises(rlay.LocalProtocolError, match=r"recv\(\)"):
            envs.step([1, 2, 3])
        with pytest.raises(rlay.ChannelTimeoutError, match="lane 0"):
            envs.recv(0.0)
        # Only one lane of worker 1, out of the order of its lanes.
        envs.send([9], env_ids=[2])
        observations, *_, infos = envs.recv()
        assert (infos["env_id"].tolist(), observations[:, 2].tolist()) == ([2], [9])
        assert infos["echo"].tolist() == [9]
        make[0].let_go()
        *_, infos = envs.recv()
        assert (infos["env_id"].tolist(), infos["echo"].tolist()) == ([0], [5])
        envs.send([1, 2, 3], [2, 1, 0])
        seen: dict[int, int] = {}
        while len(seen) < 3:
            observations, *_, infos = envs.recv()
            seen |= dict(zip(infos["env_id"].tolist(), observations[:, 2].tolist(), strict=True))
        assert seen == {2: 1, 1: 2, 0: 3}
        for wrong in ([0, 0, 1], [0, 1, 3], [-1, 0, 1], [], [0.5]):
            with pytest.raises((rlay.LocalProtocolError, rlay.LayoutError)):
                envs.send([1, 2, 3], wrong)
        check_steps(envs, 8)


def test_an_error_in_flight_keeps_the_results_of_others() -> None:
    make = Counters()
    with vector([1, 1], make) as envs:
        envs.reset()
        make[0].plan["step"] = "raise"
        envs.send([5, 6])
        errors, seen = 0, []
        for _ in range(2):
            try:
                seen += envs.recv()[4]["env_id"].tolist()
            except rlay.RemoteError as error:
                errors += error.lane == 0
        assert (errors, seen) == (1, [1])
        make[0].plan.clear()
        with pytest.raises(rlay.LocalProtocolError, match=r"lanes \[0\]"):
            envs.send([5, 6])
        envs.reset()
        check_steps(envs, 2)
