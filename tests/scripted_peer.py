"""The scripted peer in Python: the twin of ``ports/reference_c/scripted_peer.c``.

The comment at the top of that file says what the environment computes, what the
agent asks and what it prints; every pairing must print the same lines.
"""

from __future__ import annotations

import argparse
import itertools
import struct
import sys
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

import rlay

INT64 = np.iinfo(np.int64)
UNBOUNDED = spaces.Box(-np.inf, np.inf, (), np.float64)
INFO_FIELDS = {"lap": spaces.Discrete(1000), "x_position": UNBOUNDED}


def _int64_pair() -> spaces.Box:
    return spaces.Box(
        np.full(2, INT64.min, np.int64), np.full(2, INT64.max, np.int64), dtype=np.int64
    )


class ScriptedEnv(gymnasium.Env[Any, Any]):
    """Deterministic, and full of values that are easily lost."""

    observation_space = spaces.Dict(
        [
            ("counter", spaces.Discrete(1000000)),
            ("echo", _int64_pair()),
            ("image", spaces.Box(0, 255, (4, 6, 3), np.uint8)),
            ("position", spaces.Box(-np.inf, np.inf, (3,), np.float64)),
        ]
    )
    action_space = spaces.Dict([("big", _int64_pair()), ("gear", spaces.Discrete(5, start=-2))])

    def __init__(self) -> None:
        """Start from the default state."""
        self.x, self.k = 12345, 0

    def _image(self) -> np.ndarray:
        image = np.empty(4 * 6 * 3, np.uint8)
        for i in range(image.size):
            self.x = (self.x * 6364136223846793005 + 1442695040888963407) % 2**64
            image[i] = (self.x >> 33) & 0xFF
        return image.reshape(4, 6, 3)

    def _observation(self, echo: Any) -> dict[str, Any]:
        nan = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000000 | self.k))[0]
        return {
            "counter": self.k,
            "echo": np.asarray(echo, np.int64),
            "image": self._image(),
            "position": np.array([self.k / 3.0, -0.0, nan]),
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin anew."""
        self.x, self.k = 12345 if seed is None else seed, 0
        return self._observation([0, 0]), {"lap": 0, "note": "reset"}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance, or fail."""
        self.k += 1
        gear = int(action["gear"])
        if gear == -2:
            raise ValueError(f"scripted failure at step {self.k}")
        info = {
            "lap": self.k % 7,
            "x_position": self.k / 3.0,
            "note": f"step {self.k}",
            "blob": bytes((self.k + i) % 256 for i in range(3)),
            "limit": int(INT64.min),
        }
        observation = self._observation(action["big"])
        return observation, 0.1 * self.k + gear, self.k == 20, gear == 2, info


def _line(kind: str, number: int, observation: Any, rest: Any, info: dict[str, Any]) -> str:
    reward, terminated, truncated = rest
    arrays = (
        np.int64(observation["counter"]),
        observation["echo"],
        observation["image"],
        observation["position"],
    )
    x_position, blob = info.get("x_position"), info.get("blob")
    fields = {
        "reward": struct.pack("<d", reward).hex(),
        "terminated": int(terminated),
        "truncated": int(truncated),
        "lap": info.get("lap", "-"),
        "x_position": "-" if x_position is None else struct.pack("<d", x_position).hex(),
        "note": info.get("note", "-"),
        "blob": "-" if blob is None else blob.hex(),
        "limit": info.get("limit", "-"),
    }
    text = " ".join(f"{key}={value}" for key, value in fields.items())
    return f"{kind} {number} {b''.join(a.tobytes() for a in arrays).hex()} {text}"


class ScriptedAgent:
    """Plays the script and prints a line for each exchange."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Play with ``env``."""
        self.env, self.number = env, itertools.count(1)

    def reset(self, **arguments: Any) -> None:
        """Reset and print."""
        number = next(self.number)
        observation, info = self.env.reset(**arguments)
        print(_line("RESET", number, observation, (0.0, False, False), info))

    def step(self, big: list[int], gear: int) -> None:
        """Step and print."""
        number = next(self.number)
        action = {"big": np.array(big, np.int64), "gear": gear}
        try:
            observation, *rest, info = self.env.step(action)
        except rlay.RemoteError as error:
            print(f"ERROR {error.type}: {error.message}")
        else:
            print(_line("STEP", number, observation, rest, info))

    def play(self) -> None:
        """Play the whole script."""
        low, high = int(INT64.min), int(INT64.max)
        self.reset(seed=7)
        for i in range(8):
            self.step([low + i, high - i], i % 4 - 1)
        self.reset()
        for i in range(3):
            self.step([low + i, high - i], i % 4 - 1)
        self.step([0, 0], -2)
        self.reset(seed=2**64 - 1)
        for i in range(20):
            self.step([i, -i], 0)
        self.step([0, 0], 2)


def main() -> None:
    """Play one role on one side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=["server", "client"], required=True)
    parser.add_argument("--role", choices=["env", "agent"], required=True)
    parser.add_argument("--channel", required=True)
    parser.add_argument("--timeout", type=float, default=20.0)
    a = parser.parse_args()
    limits = {"timeout": a.timeout, "attach_timeout": a.timeout}
    if a.role == "agent":
        face = rlay.ServerEnv if a.side == "server" else rlay.ClientEnv
        with face(a.channel, **limits) as env:
            ScriptedAgent(env).play()
        return
    backend = rlay.ServerBackend if a.side == "server" else rlay.ClientBackend
    with backend(a.channel, ScriptedEnv(), info_fields=INFO_FIELDS, **limits) as host:
        host.serve(sessions=1)


if __name__ == "__main__":
    main()
    sys.exit(0)
