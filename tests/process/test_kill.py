"""SIGKILL at every named point of a session: a loss, a goodbye or a whole reply, never a lie."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests import doomed
from tests.doomed import AGENT_SEEDS, LAST_STEP, POINTS, WHOLE, Point
from tests.peers import Task

MODES = {
    "ServerBackend": "ClientEnv",
    "ClientEnv": "ClientEnv",
    "ServerEnv": "ServerEnv",
    "ClientBackend": "ServerEnv",
}
CHANNEL = "kill"


def seen_by_agent(who: str) -> list[Any]:
    """Return the results of a whole story, as the surviving agent must see them."""
    reset = ([0, -1], who, AGENT_SEEDS["survivor"])
    return [reset, *(([k, k], float(k), k) for k in range(1, LAST_STEP + 1))]


def seen_by_game(who: str) -> list[Any]:
    """Return the requests of a whole story, as the surviving environment must see them."""
    return [("RESET", AGENT_SEEDS[who]), *(("STEP", k) for k in range(1, LAST_STEP + 1))]


@pytest.mark.parametrize(
    ("victim", "point"),
    [
        pytest.param(victim, point, id=f"{victim}-{point}")
        for victim, points in POINTS.items()
        for point in points
    ],
)
def test_a_kill_is_noticed_and_a_fresh_pair_works(
    victim: str, point: Point, spawn: Any, channel_root: Path, record_property: Any
) -> None:
    mode = MODES[victim]
    agent_dies = victim.endswith("Env")
    role = doomed.agent if agent_dies else doomed.game
    survive = doomed.survive_as_game if agent_dies else doomed.survive_as_agent
    expected = seen_by_game if agent_dies else seen_by_agent

    survivor = Task(survive, mode, CHANNEL)
    first = spawn(role, mode, CHANNEL, "victim", dataclasses.asdict(point))
    assert first.wait() == -signal.SIGKILL, first.output()
    second = spawn(role, mode, CHANNEL, "successor")
    sessions = survivor.result()
    assert second.wait() == 0, second.output()

    *before, (exchanges, ending, _) = sessions
    assert (exchanges, ending) == (expected("successor"), doomed.DONE)
    for exchanges, _, _ in before:
        assert exchanges == expected("victim")[: len(exchanges)]
    outcomes = [(len(exchanges), ending) for exchanges, ending, _ in before]
    allowed = [(point.exchanges, point.ending), point.also]
    assert outcomes in [[o] if o[1] else [] for o in allowed if o[1] != ""]
    (died,) = [time for what, time in first.said() if what == "dies at"]
    if before and before[0][1] == doomed.LOST:
        record_property("noticed_after_ms", (before[0][2] - died) / 1e6)
    left = sorted(os.listdir(channel_root))
    assert left == [f"{CHANNEL}.client.lock", f"{CHANNEL}.server.lock"]


def test_the_table_has_every_half_of_a_step() -> None:
    for victim, points in POINTS.items():
        exchanges = {point.exchanges for point in points}
        assert {0, 3, 4, WHOLE} <= exchanges, victim
