"""Spaces other than expected are refused, by name of the first difference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import rlay
from tests.peers import FACES, MODES, WATCHDOG, Task, hosted, serving
from tests.toys import Counter, Rooms

CHANNEL = "bad"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("expected", "difference"),
    [
        ({"action_space": spaces.Discrete(5)}, f"action/n: found {1 << 62}, expected 5"),
        ({"action_space": spaces.MultiBinary(2)}, "action/type"),
        (
            {"observation_space": spaces.Box(-(2**63), 2**63 - 1, (4,), np.int64)},
            "observation/shape/0: found 3, expected 4",
        ),
        (
            {"observation_space": spaces.Sequence(spaces.Discrete(2))},
            "observation_space: found Box.*expected Sequence",
        ),
        ({"render_mode": "human"}, "render_mode: found None, expected 'human'"),
    ],
)
def test_other_spaces_than_expected(mode: str, expected: dict[str, Any], difference: str) -> None:
    with serving_once_rejected(mode) as told:
        if mode == "ClientEnv":
            with pytest.raises(rlay.LayoutMismatchError, match=difference):
                rlay.ClientEnv(CHANNEL, attach_timeout=WATCHDOG, **expected)
            return
        task = Task(rlay.ServerEnv, CHANNEL, attach_timeout=0.5, **expected)
        # The game hears it in full; the server waits for a better one.
        with pytest.raises(rlay.LayoutMismatchError, match=difference):
            told()
        with pytest.raises(rlay.ChannelTimeoutError) as caught:
            task.result()
        assert isinstance(caught.value.__cause__, rlay.LayoutMismatchError)


@contextlib.contextmanager
def serving_once_rejected(mode: str) -> Iterator[Callable[[], Any]]:
    """Offer a Counter; in ServerEnv mode gives a function that attaches it."""
    if mode == "ClientEnv":
        with serving(mode, Counter(), CHANNEL):
            yield lambda: None
    else:
        with contextlib.closing(rlay.ClientBackend(CHANNEL, Counter())) as backend:
            yield backend.next_request


@pytest.mark.parametrize("mode", MODES)
def test_the_expected_spaces_are_accepted(mode: str) -> None:
    toy = Counter(render_mode="ansi")
    face = {
        "observation_space": toy.observation_space,
        "action_space": toy.action_space,
        "render_mode": "ansi",
    }
    with hosted(mode, toy, CHANNEL, face=face) as env:
        assert env.observation_space == toy.observation_space
        assert env.action_space == toy.action_space
        assert env.render_mode == "ansi"
        assert env.metadata["render_modes"] == ["rgb_array", "ansi"]


@pytest.mark.parametrize("mode", MODES)
def test_another_environment_after_reattach(mode: str) -> None:
    first, second = Counter(), Rooms()
    with contextlib.ExitStack() as stack:
        with serving(mode, first, CHANNEL) as backend:
            env = FACES[mode](CHANNEL, timeout=WATCHDOG, attach_timeout=WATCHDOG)
            stack.callback(env.close)
            env.reset()
            env._session.end()
        backend.close()
        if mode == "ClientEnv":
            stack.enter_context(serving(mode, second, CHANNEL))
            with pytest.raises(rlay.LayoutMismatchError, match="another than before: groups/0"):
                env.reset()
        else:
            other = stack.enter_context(contextlib.closing(rlay.ClientBackend(CHANNEL, second)))
            task = Task(env.reset)
            with pytest.raises(rlay.LayoutMismatchError, match="another than before: groups/0"):
                other.next_request()
            other.close()
            with serving(mode, Counter(), CHANNEL):
                assert task.result()[0].tolist() == [1, 0, -1]
                env.close()
