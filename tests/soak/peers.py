"""The Python peers of the soak: an environment that counts, its host, and an agent.

Observation ``[k, action, 0, 0]``, reward ``k``; each thousandth step has an info and each
ten-thousandth ends the episode. The agent checks every value. ``peer.c`` is the same in C.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import mmap
import os
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

import rlay
from tests.chaos import ledger
from tests.chaos.ledger import Ledger
from tests.peers import BACKENDS, FACES, use_twin

EPISODE, INFORM = 10_000, 1_000
PATIENCE = 60.0
#: Sessions between two collections.
COLLECT = 100

#: What a broken peer leaks, once in ``INFORM`` steps or once a session.
LEAKS = ("memory", "descriptor", "thread", "mapping", "file")
#: Bytes of a leak of memory.
_LEAKED = 1 << 20
_hoard: list[Any] = []


def leak(what: str | None) -> None:
    """Lose something of this kind; None loses nothing."""
    if what == "memory":
        _hoard.append(bytearray(os.urandom(1) * _LEAKED))
    elif what == "descriptor":
        _hoard.append(os.open(os.devnull, os.O_RDONLY))
    elif what == "thread":
        threading.Thread(target=time.sleep, args=(3600.0,), daemon=True).start()
    elif what in ("mapping", "file"):
        path = Path(os.environ["RLAY_DIR"], f"leaked-{os.getpid()}-{len(_hoard)}")
        path.write_bytes(bytes(4096))
        _hoard.append(path)
        if what == "mapping":
            with path.open("rb") as file:
                _hoard.append(mmap.mmap(file.fileno(), 4096, access=mmap.ACCESS_READ))
            path.unlink()


def _collect(sessions: int) -> None:
    """Collect now and then: what only waits for the collector is no growth."""
    if sessions % COLLECT == 0:
        gc.collect()


class Counting(gymnasium.Env[Any, Any]):
    """Counts, and leaks what it is told to."""

    observation_space = spaces.Box(0, 1 << 40, (4,), np.int64)
    action_space = spaces.Discrete(1 << 40)

    def __init__(self, leaks: str | None = None) -> None:
        """``leaks`` is of ``LEAKS``, or None."""
        self._leaks, self._k = leaks, 0
        self._seen = np.zeros(4, np.int64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Begin to count at 0."""
        self._k = 0
        self._seen[:] = 0
        return self._seen, {}

    def step(self, action: Any) -> Any:
        """Count one more."""
        self._k = k = self._k + 1
        self._seen[0], self._seen[1] = k, action
        if k % INFORM:
            return self._seen, float(k), False, False, {}
        leak(self._leaks)
        return self._seen, float(k), False, k == EPISODE, {"k": k}


def host(place: dict[str, Any]) -> None:
    """Serve agents until told to stop."""
    use_twin(place["twin"])
    told = Ledger(Path(place["ledger"]))
    per_session = place["leaks"] if place["sessions"] > 1 else None
    env = Counting(None if per_session else place["leaks"])
    served = itertools.count(1)
    with contextlib.closing(
        BACKENDS[place["mode"]](place["channel"], env, attach_timeout=1.0)
    ) as backend:
        while not told.words[ledger.STOP]:
            with contextlib.suppress(rlay.ChannelTimeoutError, rlay.ChannelNotFoundError):
                backend.serve(sessions=1)
                leak(per_session)
                _collect(next(served))


def _play(env: Any, steps: int, words: Any) -> None:
    """Take so many steps and check each."""
    observation, info = env.reset(seed=0)
    assert observation.tolist() == [0, 0, 0, 0], observation
    k = 0
    for done in range(1, steps + 1):
        observation, reward, terminated, truncated, info = env.step(done)
        k += 1
        if reward != k or observation[0] != k or observation[1] != done or terminated:
            raise AssertionError(f"step {k}, action {done}: {observation}, {reward}")
        if k % INFORM == 0:
            assert info == {"k": k}, info
            words[ledger.STEPS] += INFORM
        if truncated:
            assert k == EPISODE, k
            env.reset(options={"again": done})
            words[ledger.EPISODES] += 1
            k = 0


def agent(place: dict[str, Any]) -> None:
    """Play ``sessions`` of ``steps`` each; stay in the one that HOLD numbers until told."""
    use_twin(place["twin"])
    words = Ledger(Path(place["ledger"])).words
    settings = {"timeout": PATIENCE, "attach_timeout": PATIENCE}
    sessions, env = place["sessions"], None
    for _ in range(sessions):
        if env is not None:
            env.close()
        env = FACES[place["mode"]](place["channel"], **settings)
        _play(env, place["steps"], words)
        if sessions > 1:
            leak(place["leaks"])
        words[ledger.SESSIONS] += 1
        _collect(words[ledger.SESSIONS])
        while words[ledger.SESSIONS] >= words[ledger.HOLD] and not words[ledger.STOP]:
            time.sleep(0.001)
    if env is not None:
        env.close()
