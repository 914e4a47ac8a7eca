"""The environments that are measured: they cost next to nothing."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class NoOpEnv(gymnasium.Env[Any, Any]):
    """Answers every step with the same four numbers."""

    observation_space: gymnasium.Space[Any] = spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space: gymnasium.Space[Any] = spaces.Discrete(2)

    def __init__(self) -> None:
        """Make the observation once."""
        self._observation = np.array([0.0, 0.25, 0.5, 0.75], np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Return the observation."""
        return self._observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return the observation."""
        return self._observation, 0.0, False, False, {}


class PictureEnv(NoOpEnv):
    """Answers every step with the same picture."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Make a picture of this shape."""
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self._observation = np.full(shape, 127, np.uint8)


class SleepyEnv(NoOpEnv):
    """Action 1 takes a while; the reward is the processor time of this process."""

    def __init__(self, seconds: float) -> None:
        """Sleep this long for action 1."""
        super().__init__()
        self._seconds = seconds

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Sleep, if asked to."""
        if action == 1:
            time.sleep(self._seconds)
        return self._observation, time.process_time(), False, False, {}


def cartpole() -> gymnasium.Env[Any, Any]:
    """Make the environment of the vector group."""
    return gymnasium.make("CartPole-v1")
