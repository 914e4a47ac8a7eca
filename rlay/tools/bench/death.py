"""Group ``death``: how soon a survivor notices that its peer was killed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import numpy as np

from rlay.envs.backends import ServerBackend
from rlay.errors import PeerLostError, RlayError
from rlay.tools.bench import peers
from rlay.tools.bench.envs import NoOpEnv, SleepyEnv
from rlay.tools.bench.peers import Child
from rlay.tools.bench.plan import Plan
from rlay.tools.bench.results import MissingPeerError, Results, Row
from rlay.tools.bench.stage import Stage

GROUP = "death"
#: A victim lives this long at most before it is killed, seconds.
_LIFE = 0.04
#: A step that does not end by itself, seconds.
_LONG_STEP = 60.0
_SEED = 11


class _Killer:
    """Kills a child after a random moment, from a thread, and remembers when."""

    def __init__(self, child: Child, after: float) -> None:
        self.killed_ns = 0
        self._child, self._after = child, after
        self._thread = threading.Thread(target=self._kill)

    def _kill(self) -> None:
        time.sleep(self._after)
        self.killed_ns = time.perf_counter_ns()
        self._child.kill()

    def witness(self, survive: Callable[[], None]) -> float:
        """Return the milliseconds from the kill until ``survive`` raised ``PeerLostError``."""
        self._thread.start()
        try:
            survive()
        except PeerLostError:
            return (time.perf_counter_ns() - self.killed_ns) / 1e6
        finally:
            self._thread.join()
        raise MissingPeerError("the survivor did not notice")


def env_in_loop(stage: Stage, after: float) -> float:
    """Kill an environment somewhere in a loop of short steps."""
    channel = stage.channel()
    child = stage.child(peers.serve, channel, NoOpEnv)
    env = stage.attach(channel, child)

    def survive() -> None:
        while True:
            env.step(1)

    return _Killer(child, after).witness(survive)


def env_in_step(stage: Stage, after: float) -> float:
    """Kill an environment inside a step, while the agent waits for the reply."""
    channel = stage.channel()
    child = stage.child(peers.serve, channel, SleepyEnv, _LONG_STEP)
    env = stage.attach(channel, child)

    def survive() -> None:
        env.step(1)

    return _Killer(child, after).witness(survive)


def agent_in_loop(stage: Stage, after: float) -> float:
    """Kill an agent somewhere in a loop of short steps."""
    channel, toy = stage.channel(), NoOpEnv()
    backend = ServerBackend(
        channel,
        observation_space=toy.observation_space,
        action_space=toy.action_space,
        attach_timeout=peers.START_TIMEOUT,
    )
    stage.at_end(backend.close)
    child = stage.child(peers.play, channel)
    observation = toy.reset()[0]
    request = backend.next_request()

    def survive() -> None:
        nonlocal request
        while request is not None:
            request = backend.decide(observation)

    return _Killer(child, after).witness(survive)


WAYS: dict[str, tuple[str, Callable[[Stage, float], float]]] = {
    "env_in_loop": ("env killed at any point of a loop of steps", env_in_loop),
    "env_in_step": ("env killed inside a long step", env_in_step),
    "agent_in_loop": ("agent killed at any point of a loop of steps", agent_in_loop),
}


def measure(stage: Stage, plan: Plan, results: Results) -> None:
    """Measure the group, the ways to die taking turns."""
    moments = random.Random(_SEED)
    values: dict[str, list[float]] = {key: [] for key in WAYS}
    for _ in range(plan.trials):
        for key in list(values):
            try:
                with stage.scene():
                    values[key].append(WAYS[key][1](stage, moments.uniform(0.0, _LIFE)))
            except (MissingPeerError, RlayError, OSError) as error:
                results.miss(GROUP, key, f"{type(error).__name__}: {error}")
                del values[key]
    for key, mine in values.items():
        facts = {"trials": len(mine), "worst": float(np.max(mine))}
        results.add(Row(GROUP, key, WAYS[key][0], "ms", mine, facts))
