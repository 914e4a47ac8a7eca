"""Calls of an agent that hang in the environment, and whether their results are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import rlay
from tests.peers import WATCHDOG
from tests.toys import Counter


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


#: Name of a call to where it hangs, the call, and whether its result is right.
HANGING: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], bool]]] = {
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


HANGING["wait"] = ("step", wait_of, HANGING["step"][2])
