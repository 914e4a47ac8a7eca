"""Group ``step``: what one step of an environment that does nothing costs."""

from __future__ import annotations

import functools
import multiprocessing
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv

from rlay.tools.bench import peers
from rlay.tools.bench.contenders import (
    Contender,
    interleave,
    open_contenders,
    program_steps,
    python_steps,
)
from rlay.tools.bench.envs import NoOpEnv
from rlay.tools.bench.plan import Plan
from rlay.tools.bench.results import MissingPeerError, Results, Row
from rlay.tools.bench.stage import Stage, strategies

GROUP = "step"
LABELS = {
    "in_process": "in-process (no channel)",
    "ping_pong": "floor: bare C ping-pong, one cache line",
    "c_c": "rlay, C env - C agent",
    "c_python": "rlay, C env - Python agent",
    "python_python": "rlay, Python env - Python agent",
    "pipe": "multiprocessing Pipe, pickle",
    "tcp": "TCP loopback, pickle",
    "async_vector": "AsyncVectorEnv(1)",
}


def in_process() -> Contender:
    """Return the baseline."""
    env = NoOpEnv()
    env.reset()
    return Contender(python_steps(env.step, 1))


def async_vector(stage: Stage) -> Contender:
    """Return Gymnasium's own environment in another process."""
    env = AsyncVectorEnv([NoOpEnv], context=peers.METHOD)
    stage.at_end(functools.partial(env.close, terminate=True))
    env.reset()
    return Contender(python_steps(env.step, np.ones(1, np.int64)))


def pipe(stage: Stage) -> Contender:
    """Return pickles through a multiprocessing pipe."""
    ours, theirs = multiprocessing.Pipe()
    child = stage.child(peers.serve_pipe, theirs, NoOpEnv)
    theirs.close()
    stage.at_end(ours.close)
    if not ours.poll(peers.START_TIMEOUT) or ours.recv() != "ready":
        raise MissingPeerError("the pipe's child did not start")

    def step(action: int) -> Any:
        ours.send(action)
        return ours.recv()

    return Contender(python_steps(step, 1), [child])


def tcp(stage: Stage) -> Contender:
    """Return pickles over TCP loopback, without Nagle's delay."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(peers.START_TIMEOUT)
        child = stage.child(peers.serve_tcp, server.getsockname()[1], NoOpEnv)
        connection, _ = server.accept()
    stage.at_end(connection.close)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = connection.makefile("rb")
    stage.at_end(stream.close)
    if peers.receive_pickle(stream) != "ready":
        raise MissingPeerError("the TCP child did not start")

    def step(action: int) -> Any:
        peers.send_pickle(connection, action)
        return peers.receive_pickle(stream)

    return Contender(python_steps(step, 1), [child])


def c_c(stage: Stage) -> Contender:
    """Return two C programs through rlay.h."""
    channel = stage.channel()
    env = stage.program("bench_peer", "env", channel, "f32", "4")
    agent = stage.program("bench_peer", "agent", channel)
    stage.at_end(env.resume)
    agent.ask("1 1000000000", peers.START_TIMEOUT)
    return Contender(program_steps(agent), [env, agent])


def ping_pong(stage: Stage) -> Contender:
    """Return the floor."""
    return Contender(program_steps(stage.program("pingpong", "--batches")))


def _by_strategy(stage: Stage, name: str, why: str | None) -> Contender:
    if why is not None:
        raise MissingPeerError(why)
    return stage.python_env(NoOpEnv, wait=name)


def recipes(stage: Stage) -> dict[str, Callable[[], Contender]]:
    """Return every contender that should be there, by key."""
    made: dict[str, Callable[[], Contender]] = {
        "in_process": in_process,
        "ping_pong": functools.partial(ping_pong, stage),
        "c_c": functools.partial(c_c, stage),
        "c_python": functools.partial(stage.c_env, "f32", "4"),
        "python_python": functools.partial(stage.python_env, NoOpEnv),
    }
    for name, why in strategies().items():
        made[f"python_python_{name}"] = functools.partial(_by_strategy, stage, name, why)
    made["pipe"] = functools.partial(pipe, stage)
    made["tcp"] = functools.partial(tcp, stage)
    made["async_vector"] = functools.partial(async_vector, stage)
    return made


def measure(stage: Stage, plan: Plan, results: Results) -> None:
    """Measure the group."""
    contenders = open_contenders(results, GROUP, recipes(stage))
    turns = interleave(
        results,
        GROUP,
        contenders,
        rounds=plan.rounds,
        sample_ns=plan.sample_ns,
        steps=plan.steps,
    )
    base = turns.get("in_process")
    floor = float(np.median(base.per_step_ns)) if base else 0.0
    for key, mine in turns.items():
        strategy = key.removeprefix("python_python_")
        label = LABELS.get(key) or f"{LABELS['python_python']}, waiting: {strategy}"
        # C programs have no Python step to subtract.
        of_python = key not in ("ping_pong", "c_c")
        median = float(np.median(mine.per_step_ns))
        facts = {
            "steps_per_round": mine.steps,
            "overhead": max(0.0, median - floor) if of_python and base else median,
        }
        results.add(Row(GROUP, key, label, "ns/step", mine.per_step_ns, facts))
