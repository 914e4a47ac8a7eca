"""What victim, survivor and successor play, and how each value says where it came from.

One story: RESET, STEP, STEP, RENDER, STEP, CLOSE. Every element of an observation follows from
the environment's token, the seed and the step; every element of an action from the seed and
the step; the seed is the agent's token. So a value that is stale, torn or foreign shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

import rlay

WIDTH = 48
_FULL = (-(2**63), 2**63 - 1)
_WORD = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15
#: A picture, so that RENDER writes the frame field.
_PICTURE = (4, 6, 3)

#: The exchanges before CLOSE, in order: command and step.
EXCHANGES = (("RESET", 0), ("STEP", 1), ("STEP", 2), ("RENDER", 2), ("STEP", 3))
#: With CLOSE.
WHOLE = len(EXCHANGES) + 1
#: Exchanges that the victim completes before it leaves early, when it does.
BEFORE_LEAVING = 2

MODES = {
    "ServerBackend": "ClientEnv",
    "ClientEnv": "ClientEnv",
    "ServerEnv": "ServerEnv",
    "ClientBackend": "ServerEnv",
}
PARTNER = {
    "ServerBackend": "ClientEnv",
    "ClientEnv": "ServerBackend",
    "ServerEnv": "ClientBackend",
    "ClientBackend": "ServerEnv",
}

Phase = Callable[[str], None]


def is_agent(face: str) -> bool:
    """Tell whether this class plays the agent."""
    return face.endswith("Env")


def is_server(face: str) -> bool:
    """Tell whether this class owns the channel."""
    return face.startswith("Server")


def mix(*parts: int) -> int:
    """Return 64 bits that follow from all parts; ports do the same in their language."""
    value = 0
    for part in parts:
        value = ((value ^ (part & _WORD)) * _ODD + 1) & _WORD
        value ^= value >> 29
    return value


def numbers(count: int, *parts: int) -> np.ndarray:
    """Return ``count`` int64, each different and each following from all parts."""
    with np.errstate(over="ignore"):
        line = np.arange(count, dtype=np.uint64) * np.uint64(_ODD) + np.uint64(mix(*parts))
    return line.view(np.int64)


def observation(token: int, seed: int, step: int) -> np.ndarray:
    """Return what the environment with this token observes."""
    return numbers(WIDTH, token, seed, step)


def action(seed: int, step: int) -> np.ndarray:
    """Return what the agent with this seed does."""
    return numbers(WIDTH, seed, step)


def reward(token: int, seed: int, step: int) -> float:
    """Return the reward of a step; exact in float64."""
    return float(mix(token, seed, step, 7) >> 20)


def picture(token: int, seed: int, step: int) -> np.ndarray:
    """Return what the environment with this token renders."""
    return numbers(9, token, seed, step).view(np.uint8).reshape(_PICTURE)


def info(token: int, step: int) -> dict[str, Any]:
    """Return the info of a step: empty where a step is ordinary, else with a body."""
    return {"token": token, "step": step} if step % 2 == 0 else {}


class Oracle(gymnasium.Env[np.ndarray, np.ndarray]):
    """The environment of the story."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium's way
    render_mode = "rgb_array"

    def __init__(self, token: int, phase: Phase = lambda _: None) -> None:
        self.observation_space = self.action_space = spaces.Box(*_FULL, (WIDTH,), np.int64)
        self.token, self._phase = token, phase
        self.seen: list[Any] = []
        self._seed = self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self._phase("reset")
        self._seed, self._step = seed or 0, 0
        self.seen.append(("RESET", seed))
        return observation(self.token, self._seed, 0), info(self.token, 0)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._phase("step")
        self._step += 1
        self.seen.append(("STEP", action.copy()))
        made = observation(self.token, self._seed, self._step)
        gain = reward(self.token, self._seed, self._step)
        return made, gain, False, False, info(self.token, self._step)

    def render(self) -> np.ndarray:
        self._phase("render")
        self.seen.append(("RENDER", None))
        return picture(self.token, self._seed, self._step)


def no_phase(name: str) -> None:
    """Ignore the phase: only a victim is watched."""


def play_agent(
    env: Any,
    seed: int,
    seen: list[Any],
    *,
    phase: Phase = no_phase,
    dawdle: float = 0.0,
    leave: bool = False,
) -> None:
    """Be the agent of one story; append each result to ``seen``."""
    for number, (command, step) in enumerate(EXCHANGES):
        if dawdle and command == "STEP":
            time.sleep(dawdle)
        if leave and number == BEFORE_LEAVING:
            phase("close")
            env._session.end()
            break
        phase(command.lower())
        if command == "RESET":
            seen.append(env.reset(seed=seed))
        elif command == "STEP":
            seen.append(env.step(action(seed, step)))
        else:
            seen.append(env.render())
    phase("close")
    env.close()


def play_game(
    backend: Any,
    oracle: Oracle,
    *,
    dawdle: float = 0.0,
    leave: bool = False,
) -> None:
    """Be the environment of one story with a loop of its own."""
    request = backend.next_request()
    while request is not None:
        if dawdle and request.command is rlay.Command.STEP:
            time.sleep(dawdle)
        if leave and len(oracle.seen) == BEFORE_LEAVING:
            backend.close()
            return
        if request.command is rlay.Command.RESET:
            made, told = oracle.reset(seed=request.seed)
            request = backend.decide(made, info=told)
        else:
            request = backend.decide(*oracle.step(request.action))


def results_of(token: int, seed: int) -> list[Any]:
    """Return what an agent must see of a whole story with the environment of this token."""
    seen: list[Any] = []
    for command, step in EXCHANGES:
        made, told = observation(token, seed, step), info(token, step)
        if command == "RESET":
            seen.append((made, told))
        elif command == "STEP":
            seen.append((made, reward(token, seed, step), False, False, told))
        else:
            seen.append(picture(token, seed, step))
    return seen


def requests_of(seed: int) -> list[Any]:
    """Return what an environment must see of a whole story with the agent of this seed."""
    what = {"RESET": lambda _: seed, "STEP": lambda k: action(seed, k), "RENDER": lambda _: None}
    return [(command, what[command](step)) for command, step in EXCHANGES]


def same(left: Any, right: Any) -> bool:
    """Tell whether two results are equal in types, dtypes and every element."""
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, tuple | list) and type(left) is type(right):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)
