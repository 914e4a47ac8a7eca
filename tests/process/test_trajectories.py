"""What arrives through rlay is what the environment gives in-process, bit for bit."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest

from tests.peers import BACKENDS, FACES, MODES, WATCHDOG
from tests.toys import Pictures, equal

SEEDS = range(10)
STEPS = 500
CHANNEL = "trajectory"


def make(name: str) -> gymnasium.Env[Any, Any]:
    return Pictures() if name == "Pictures" else gymnasium.make(name)


def serve(mode: str, name: str) -> None:
    """Host the environment for one agent; runs in a child."""
    with BACKENDS[mode](CHANNEL, make(name), attach_timeout=WATCHDOG) as backend:
        backend.serve(sessions=1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "Pictures"])
def test_bit_for_bit(name: str, mode: str, spawn: Any) -> None:
    child = spawn(serve, mode, name)
    here = make(name)
    there = FACES[mode](CHANNEL, timeout=WATCHDOG, attach_timeout=WATCHDOG)
    try:
        for seed in SEEDS:
            assert equal(there.reset(seed=seed), here.reset(seed=seed))
            here.action_space.seed(seed)
            for _ in range(STEPS):
                action = here.action_space.sample()
                expected = here.step(action)
                observation, reward, *rest = there.step(action)
                assert equal(observation, expected[0])
                # The wire carries every reward as float64, whatever the environment uses.
                assert equal(reward, float(expected[1]))
                assert rest == [bool(expected[2]), bool(expected[3]), expected[4]]
                if expected[2] or expected[3]:
                    assert equal(there.reset(), here.reset())
    finally:
        there.close()
        here.close()
    assert child.wait() == 0, child.output()
