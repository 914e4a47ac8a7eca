"""An environment whose every value is known: made from channel, seed, step and action alone.

``Model`` says what must come; it knows nothing of rlay. ``World`` is the environment that
plays it. ``peer.c`` has the same arithmetic in C, written apart.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
ACTION, OBSERVATION = 8, 64
LONGEST_EPISODE = 200
#: Longer than a slice, so that the waiting side looks after its peer meanwhile; seconds.
SLOW_STEP = 0.03
_LIMITS = np.iinfo(np.int64)
_STEPS = np.arange(OBSERVATION, dtype=np.uint64) * np.uint64(GOLDEN)


def mix(x: int) -> int:
    """Return 64 well mixed bits (splitmix64)."""
    x = (x + GOLDEN) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def mix_array(x: np.ndarray) -> np.ndarray:
    """``mix`` of each element of a uint64 array."""
    x = x + np.uint64(GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Model:
    """One episode of one channel: what the agent sends, and what it must get.

    Attributes:
        k: steps taken.
        observation: int64 [64]; the first three are step, seed and channel, for people.
        reward: a float64 that holds 53 bits of the state.
        raises: whether this step is one that fails.
    """

    def __init__(self, salt: int, seed: int) -> None:
        self.salt, self.seed, self.k = salt, seed, 0
        self._state = mix(salt ^ mix(seed))
        self._look()

    def _look(self) -> None:
        h = self._state
        observation = mix_array(_STEPS + np.uint64(h)).view(np.int64)
        observation[:3] = self.k, self.seed, self.salt
        self.observation = observation
        self.reward = float(h >> 11)
        self.terminated = h % 61 == 0
        self.truncated = self.k >= LONGEST_EPISODE
        self.raises, self.slow = h % 211 == 1, h % 499 == 2
        self.info = {"k": self.k} if h % 7 == 0 else {}

    def action(self) -> np.ndarray:
        """Return the one action that goes with the next step: int64 [8]."""
        return mix_array(_STEPS[:ACTION] + np.uint64(mix(self._state ^ self.k))).view(np.int64)

    def step(self) -> None:
        """Take the next step with that action."""
        action = int(self.action()[0]) & MASK
        self.k += 1
        self._state = mix(self._state ^ action)
        self._look()


class World(gymnasium.Env[Any, Any]):
    """Plays the model for whoever sends its actions; calls ``wrong`` for any other."""

    observation_space = spaces.Box(_LIMITS.min, _LIMITS.max, (OBSERVATION,), np.int64)
    action_space = spaces.Box(_LIMITS.min, _LIMITS.max, (ACTION,), np.int64)

    def __init__(self, salt: int, wrong: Any, *, smooth: bool = False) -> None:
        """``smooth`` leaves out the steps that fail, and infos."""
        self._salt, self._wrong, self._smooth = salt, wrong, smooth
        self._model: Model | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the episode of this seed."""
        if seed is None or options is not None:
            self._wrong(f"a reset came with seed {seed} and options {options}")
        self._model = Model(self._salt, seed or 0)
        return self._model.observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Check the action and take the step."""
        model = self._model
        assert model is not None
        expected = model.action()
        if not np.array_equal(action, expected):
            self._wrong(f"step {model.k + 1} of seed {model.seed} came with another action")
        model.step()
        if model.slow:
            time.sleep(SLOW_STEP)
        if self._smooth:
            return model.observation, model.reward, model.terminated, model.truncated, {}
        if model.raises:
            raise ValueError(f"step {model.k} fails")
        return model.observation, model.reward, model.terminated, model.truncated, model.info


def difference(model: Model, got: tuple[Any, ...], *, smooth: bool = False) -> str | None:
    """Say how the result of a step or reset differs from what it must be, or None."""
    observation, *rest = got
    if not np.array_equal(observation, model.observation):
        told = [int(value) for value in np.asarray(observation).ravel()[:3]]
        return (
            f"step {model.k} of seed {model.seed}, channel {model.salt}: the observation is not "
            f"its own; it says step, seed and channel {told}"
        )
    if len(rest) == 1:
        expected: list[Any] = [{}]
    else:
        info = {} if smooth else model.info
        expected = [model.reward, model.terminated, model.truncated, info]
    if rest != expected:
        return f"step {model.k} of seed {model.seed}: {rest} came with it, not {expected}"
    return None
