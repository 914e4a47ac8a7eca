"""One side of a channel whose bytes somebody changes while it works: ``python -m`` this.

It plays until its standard input ends, counts how each operation ended, and prints that as
one line of JSON. Its promise: a value or a declared error, in time, in bounded memory. When it
is broken, the process says how and ends with status 1.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import json
import logging
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

import rlay
from rlay.channel.wait import Deadline
from rlay.errors import RlayError
from rlay.protocol import prefix
from tests.fuzz.contract import largest_size

#: Seconds a call may wait. Attaching to a channel that is wrecked again and again takes all.
TIMEOUT = 0.25
#: Seconds on top for a machine that is busy with other things.
SLACK = 20.0
#: Bytes by which the process may grow once it has played its first session.
GROWTH = 128 << 20


class Plain(gymnasium.Env[Any, Any]):
    """What the compiled step carries: an array, an integer, an empty info."""

    observation_space: Any = spaces.Box(-np.inf, np.inf, (8,), np.float64)
    action_space: Any = spaces.Discrete(4)
    render_mode = "rgb_array"
    size = 3

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin."""
        super().reset(seed=seed)
        return self.observe(), {"options": options} if options else {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance."""
        return self.observe(), 1.0, False, False, {}

    def observe(self) -> Any:
        return np.arange(8.0)

    def render(self) -> Any:
        """Return an image."""
        return np.zeros((4, 4, 3), np.uint8)


class Rich(Plain):
    """Counts, indices, text and declared info: everything a reader has to check."""

    observation_space = spaces.Dict(
        {
            "text": spaces.Text(12),
            "either": spaces.OneOf([spaces.Discrete(3), spaces.MultiBinary(4)]),
            "items": spaces.Sequence(spaces.Discrete(9)),
            "graph": spaces.Graph(spaces.Box(0, 1, (2,)), spaces.Discrete(2)),
        }
    )
    action_space = spaces.Tuple([spaces.Sequence(spaces.Discrete(4)), spaces.Text(5)])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance."""
        return self.observe(), 1.0, False, False, {"lap": 3, "note": "ä", "path": np.arange(5)}

    def observe(self) -> Any:
        graph = spaces.GraphInstance(np.zeros((2, 2), np.float32), np.zeros(1, np.int64), [[0, 1]])
        return {"text": "abc", "either": (1, np.ones(4, np.int8)), "items": (1, 2), "graph": graph}


ENVS: dict[str, type[Plain]] = {"plain": Plain, "rich": Rich}
ACTIONS: dict[str, Any] = {"plain": 1, "rich": ((1, 2), "go")}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rich": {
        "info_fields": {"lap": "int64"},
        "capacities": {"observation/items": 4, "observation/graph": (3, 4), "action/0": 4},
        "frame_capacity": 256,
    },
}


class BrokenPromiseError(Exception):
    """What this program is here to notice."""


class Judge:
    """Counts how operations end, and says when a promise is broken."""

    def __init__(self, slack: float) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self._slack, self._size = slack, 0

    def judge(self, what: str, operation: Callable[[], Any], *, timed: bool = True) -> bool:
        """Run one operation; return whether it gave a value."""
        start, outcome = time.monotonic(), what
        try:
            operation()
        except RlayError as error:
            outcome = type(error).__name__
        took = time.monotonic() - start
        self.counts[outcome] += 1
        if timed and took > TIMEOUT + self._slack:
            raise BrokenPromiseError(f"{what} took {took:.1f} s of {TIMEOUT:g} s")
        size = largest_size()
        self._size = self._size or size
        if size > self._size + GROWTH:
            raise BrokenPromiseError(f"{what} made the process grow to {size} bytes")
        return outcome == what


def going() -> bool:
    """Tell whether the standard input is still open."""
    return not select.select([sys.stdin], [], [], 0)[0]


def be_agent(judge: Judge, channel: str, kind: str, side: str) -> None:
    """Attach again and again; reset, step, render and call while that goes well."""
    face: Any = rlay.ClientEnv if side == "client" else rlay.ServerEnv
    while going():
        made: list[Any] = []

        def attach(made: list[Any] = made) -> None:
            made.append(face(channel, timeout=TIMEOUT, attach_timeout=TIMEOUT))

        if not judge.judge("attach", attach):
            continue
        with contextlib.closing(made[0]) as env:
            play(judge, env, kind)


def play(judge: Judge, env: Any, kind: str) -> None:
    """Play one session until something fails that a reset does not mend."""
    action = ACTIONS[kind]
    while going():
        if not judge.judge("reset", lambda: env.reset(seed=1, options={"level": [1, "x"]})):
            return
        for number in range(200):
            if not judge.judge("step", lambda: env.step(action)):
                break
            if judge.counts["step"] == 1:
                print("ready", flush=True)
            if number % 40 == 20:
                judge.judge("render", env.render)
                judge.judge("call", lambda: env.call("size"))


def be_env(judge: Judge, channel: str, kind: str, side: str) -> None:
    """Serve one session after another."""
    host: Any = rlay.ServerBackend if side == "server" else rlay.ClientBackend
    while going():
        made: list[Any] = []

        def open_(made: list[Any] = made) -> None:
            settings = {**SETTINGS[kind], "attach_timeout": TIMEOUT, "timeout": TIMEOUT}
            made.append(host(channel, ENVS[kind](), **settings))

        if not judge.judge("open", open_):
            continue
        with contextlib.closing(made[0]) as backend:
            # A session lasts for as long as the agent lives.
            while going() and judge.judge(
                "session", lambda: backend.serve(sessions=1), timed=False
            ):
                pass


def _leak(self: Any, seq: int) -> Any:
    found = prefix.PREFIX.unpack_from(self._memory)
    return [found[1:4]][found[0] - seq]


def _late(self: Any) -> bool:
    time.sleep(3)
    return True


def _hoard(data: bytes) -> Any:
    return bytearray(b"\1" * (GROWTH * 2 + len(data)))


#: Faults for the negative controls: what is broken, and how.
BROKEN: dict[str, Callable[[], None]] = {
    "leak": lambda: setattr(prefix.Record, "_open", _leak),
    "late": lambda: setattr(Deadline, "passed", _late),
    "hoard": lambda: setattr(prefix, "decode_body", _hoard),
}


def main() -> int:
    """Play one role."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", choices=["agent", "env"], required=True)
    parser.add_argument("--side", choices=["client", "server"], required=True)
    parser.add_argument("--kind", choices=sorted(ENVS), default="plain")
    parser.add_argument("--channel", required=True)
    parser.add_argument("--slack", type=float, default=SLACK)
    parser.add_argument("--broken", choices=sorted(BROKEN))
    a = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable()
    if a.broken:
        BROKEN[a.broken]()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    judge = Judge(a.slack)
    (be_agent if a.role == "agent" else be_env)(judge, a.channel, a.kind, a.side)
    print(json.dumps(dict(judge.counts)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
