"""Group ``idle``: the share of a core that an endpoint takes while it waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rlay.envs.client_env import ClientEnv
from rlay.errors import RlayError
from rlay.tools.bench import peers
from rlay.tools.bench.envs import SleepyEnv
from rlay.tools.bench.peers import Child
from rlay.tools.bench.plan import Plan
from rlay.tools.bench.programs import Program
from rlay.tools.bench.results import MissingPeerError, Results, Row
from rlay.tools.bench.stage import Stage, strategies

GROUP = "idle"
_DEFAULT = "default"


@contextmanager
def _awake(server: Child | Program) -> Iterator[None]:
    server.resume()
    try:
        yield
    finally:
        server.pause()


def env_share(env: ClientEnv, seconds: float) -> float:
    """Return what the environment's process takes while no request comes.

    Its reward is its processor time; the two steps that fetch it cost microseconds.
    """
    before = env.step(0)[1]
    begin = time.perf_counter()
    time.sleep(seconds)
    after = env.step(0)[1]
    return (after - before) / (time.perf_counter() - begin)


def agent_share(env: ClientEnv) -> float:
    """Return what this process takes while the environment is busy with one step."""
    before, begin = time.process_time(), time.perf_counter()
    env.step(1)
    return (time.process_time() - before) / (time.perf_counter() - begin)


class _Pair:
    """A waiting environment or a waiting agent, and its values."""

    def __init__(self, key: str, label: str, sample: Callable[[], float], server: Child | Program):
        self.key, self.label, self.sample, self.server = key, label, sample, server
        self.values: list[float] = []


def _python_pairs(stage: Stage, plan: Plan, name: str) -> list[_Pair]:
    wait = None if name == _DEFAULT else name
    channel = stage.channel()
    child = stage.child(peers.serve, channel, SleepyEnv, plan.idle_seconds, wait=wait)
    env = stage.attach(channel, child, wait=wait)
    child.pause()
    return [
        _Pair(
            f"env_{name}",
            f"Python env waits for a request, {name}",
            lambda: env_share(env, plan.idle_seconds),
            child,
        ),
        _Pair(
            f"agent_{name}",
            f"Python agent waits for a reply, {name}",
            lambda: agent_share(env),
            child,
        ),
    ]


def _c_pair(stage: Stage, plan: Plan) -> list[_Pair]:
    channel = stage.channel()
    program = stage.program("bench_peer", "env", channel, "--cpu", "f32", "4")
    env = stage.attach(channel, program)
    program.pause()
    sample: Callable[[], float] = lambda: env_share(env, plan.idle_seconds)  # noqa: E731
    return [_Pair("c_env", "C env waits for a request", sample, program)]


def _pairs(stage: Stage, plan: Plan, results: Results) -> list[_Pair]:
    pairs: list[_Pair] = []
    for name, why in {_DEFAULT: None, **strategies()}.items():
        keys = (f"env_{name}", f"agent_{name}")
        try:
            if why is not None:
                raise MissingPeerError(why)
            pairs += _python_pairs(stage, plan, name)
        except (MissingPeerError, RlayError, OSError) as error:
            for key in keys:
                results.miss(GROUP, key, str(error))
    try:
        pairs += _c_pair(stage, plan)
    except (MissingPeerError, RlayError, OSError) as error:
        results.miss(GROUP, "c_env", str(error))
    return pairs


def measure(stage: Stage, plan: Plan, results: Results) -> None:
    """Measure the group."""
    pairs = _pairs(stage, plan, results)
    for _ in range(plan.idle_rounds):
        for pair in pairs:
            with _awake(pair.server):
                pair.values.append(pair.sample())
    for pair in pairs:
        results.add(Row(GROUP, pair.key, pair.label, "share of a core", pair.values))
