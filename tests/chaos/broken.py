"""Deliberately broken peers: what the chaos run must report, one fault each.

A place whose ``fault`` is None has none of them.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.chaos.ledger import STEPS, Ledger
from tests.chaos.world import World

#: Each fault and a piece of the finding it must lead to: category, text.
FAULTS = {
    "shifted": ("wrong values", "the observation is not its own"),
    "stale": ("wrong values", "the observation is not its own"),
    "torn": ("wrong values", "the observation is not its own"),
    "foreign": ("wrong values", "the observation is not its own"),
    "stuck": ("hangs", "made no progress"),
    "overdue": ("hangs", "past its deadline"),
    "raises": ("unexpected", "RemoteError"),
    "exits": ("unexpected", "ended with 3"),
    "restless": ("unexpected", "errors in a calm"),
    "leaks descriptors": ("left", "descriptors"),
    "leaves a file": ("left", "file "),
    "leaves a process": ("left", "process "),
}
#: Faults of the agent; the others are the environment's.
OF_THE_AGENT = ("overdue", "restless")
_calls = itertools.count(1)
#: Steps that go well first.
_GOOD = 5


class _Broken(World):
    def __init__(self, place: dict[str, Any], told: Ledger) -> None:
        self._fault = place["fault"]
        salt = place["salt"] + (self._fault == "foreign")
        super().__init__(salt, lambda text: None)
        self._last: Any = None
        self._leaked_at = 0.0
        self._leaked: list[int] = []

    def step(self, action: Any) -> Any:
        result = super().step(action)
        last, self._last = self._last, result
        k = int(result[0][0])
        if self._fault == "leaks descriptors" and time.monotonic() > self._leaked_at + 0.02:
            self._leaked_at = time.monotonic()
            self._leaked.append(os.open(os.devnull, os.O_RDONLY))
        if k < _GOOD or last is None:
            return result
        if self._fault == "shifted":
            return last
        if self._fault == "stale":
            return (last[0], *result[1:])
        if self._fault == "torn":
            result[0][32:] = last[0][32:]
        if self._fault == "stuck":
            while True:
                time.sleep(60.0)
        if self._fault == "raises":
            raise RuntimeError("broken")
        if self._fault == "exits":
            os._exit(3)
        return result


def world(place: dict[str, Any], told: Ledger) -> World | None:
    """Return the broken environment of this place, if it has one."""
    return _Broken(place, told) if place["fault"] else None


def in_a_call(place: dict[str, Any], told: Ledger, env: Any) -> None:
    """Stay in a call of the agent for longer than its deadline, or attach without a reason."""
    if place["fault"] == "overdue" and told.words[STEPS] > _GOOD:
        time.sleep(3600.0)
    if place["fault"] == "restless" and env is not None and next(_calls) % 5 == 0:
        env.reattach()


def at_the_end(place: dict[str, Any]) -> None:
    """Leave something behind."""
    if place["fault"] == "leaves a file":
        Path(os.environ["RLAY_DIR"], f"{place['channel']}.0123456789abcdef.data").touch()
    if place["fault"] == "leaves a process" and os.fork() == 0:
        os.setsid()
        signal.alarm(60)
        while True:
            time.sleep(60.0)
