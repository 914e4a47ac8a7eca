"""Small environments for the tests; each says in its values where they came from."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Mishap(Exception):  # noqa: N818 - its name is what the tests look for
    """What a toy raises when it is told to."""


class Counter(gymnasium.Env[np.ndarray, Any]):
    """Every result carries its action: ``step(k)`` gives the observation [episode, steps, k].

    ``plan`` says what goes wrong: a dict from a method's name to the mishap.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"]}  # noqa: RUF012 - Gymnasium's way

    def __init__(
        self,
        *,
        who: str = "",
        plan: dict[str, Any] | None = None,
        render_mode: str | None = None,
        width: int = 1,
    ) -> None:
        self.observation_space = spaces.Box(-(2**63), 2**63 - 1, (3,), np.int64)
        self.action_space = spaces.Discrete(1 << 62)
        self.render_mode = render_mode
        self.who = who
        self.plan = plan or {}
        self.width = width
        self.info: dict[str, Any] = {}
        self.release = threading.Event()
        self.entered = threading.Event()
        self.closed = False
        self._episode = self._steps = 0
        self._meet("init")

    def _meet(self, method: str) -> None:
        mishap = self.plan.get(method)
        if mishap == "raise":
            raise Mishap(f"told to fail in {method}")
        if mishap == "sys.exit":
            sys.exit(7)
        if mishap == "os._exit":
            os._exit(8)
        if mishap == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        if mishap == "block":
            self.entered.set()
            if not self.release.wait(30):
                raise TimeoutError("nobody released the environment")
        if isinstance(mishap, str) and mishap.startswith("until "):
            path = Path(mishap.removeprefix("until "))
            (path.parent / f"{path.name}.entered").touch()
            deadline = time.monotonic() + 30
            while not path.exists():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"nobody made {path}")
                time.sleep(0.002)

    def let_go(self) -> None:
        """End a block, and let nothing else go wrong."""
        self.plan.clear()
        self.release.set()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self._meet("reset")
        super().reset(seed=seed)
        self._episode += 1
        self._steps = 0
        info = {"who": self.who, "seed": seed, "options": options, **self.info}
        return np.array([self._episode, 0, -1]), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._meet("step")
        self._steps += 1
        observation = np.array([self._episode, self._steps, action])
        return observation, float(action), False, False, {"echo": int(action), **self.info}

    def render(self) -> Any:
        self._meet("render")
        if self.render_mode == "rgb_array":
            return np.full((2, self.width, 3), self._steps, np.uint8)
        return f"step {self._steps}" if self.render_mode == "ansi" else None

    def add(self, left: int, right: int = 1) -> int:
        return left + right

    def process_id(self) -> int:
        return os.getpid()

    def close(self) -> None:
        self.closed = True
        self._meet("close")


class Pictures(gymnasium.Env[np.ndarray, int]):
    """Images of uint8 noise, from the seed and the actions alone."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (12, 16, 3), np.uint8)
        self.action_space = spaces.Discrete(5)
        self._steps = 0

    def _image(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (12, 16, 3), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._image(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        image = self._image() ^ np.uint8(action)
        return image, float(image.mean()), self._steps == 97, self._steps == 130, {}


class Rooms(gymnasium.Env[dict[str, Any], dict[str, Any]]):
    """Dict spaces, nested."""

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {
                "where": spaces.Box(-1.0, 1.0, (2,), np.float32),
                "bag": spaces.Dict({"coins": spaces.Discrete(9), "keys": spaces.MultiBinary(3)}),
            }
        )
        self.action_space = spaces.Dict(
            {"go": spaces.Discrete(4), "force": spaces.Box(0.0, 1.0, (1,), np.float32)}
        )

    def _look(self) -> dict[str, Any]:
        rng = self.np_random
        return {
            "where": rng.uniform(-1, 1, 2).astype(np.float32),
            "bag": {
                "coins": rng.integers(9),
                "keys": rng.integers(0, 2, 3, dtype=np.int8),
            },
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        return self._look(), {}

    def step(
        self, action: dict[str, Any]
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        return self._look(), float(action["force"][0]), False, False, {}


#: What ``Echo`` needs declared, for its action and its observation.
ECHO_CAPACITIES: dict[str, Any] = {
    f"{side}/{key}": capacity
    for side in ("action", "observation")
    for key, capacity in (("words", 64), ("net", (10, 100)))
}


class Echo(gymnasium.Env[Any, Any]):
    """Gives each action back as the observation, in the spaces that have no fixed size."""

    def __init__(self) -> None:
        box = spaces.Box(-1.0, 1.0, (2,), np.float64)
        self.observation_space = self.action_space = spaces.Dict(
            {
                "text": spaces.Text(12, charset="abcäöü €"),
                "either": spaces.OneOf([spaces.Discrete(3), box]),
                "words": spaces.Sequence(spaces.Discrete(50)),
                "net": spaces.Graph(box, spaces.Discrete(7)),
            }
        )
        self._said: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return action, 1.0, False, False, {}


def equal(left: Any, right: Any) -> bool:
    """Tell whether two values of a space are the same in type, dtype, shape and bits."""
    if isinstance(left, dict):
        return list(left) == list(right) and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, tuple):
        return (
            type(left) is type(right)
            and len(left) == len(right)
            and all(equal(a, b) for a, b in zip(left, right, strict=True))
        )
    if isinstance(left, np.ndarray | np.generic):
        left, right = np.asarray(left), np.asarray(right)
        same = (left.dtype, left.shape) == (right.dtype, right.shape)
        return same and left.tobytes() == right.tobytes()
    return bool(type(left) is type(right) and left == right)


def play(env: Any, actions: range = range(1, 4)) -> None:
    """Reset a Counter and step it with these actions, and check each result."""
    assert env.reset()[0].tolist()[1:] == [0, -1]
    for steps, action in enumerate(actions, 1):
        observation, reward, *_ = env.step(action)
        assert (observation.tolist()[1:], reward) == ([steps, action], float(action))
