"""Group ``vector``: CartPole lanes in worker processes, beside Gymnasium's vector environments."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from rlay.envs.make_vec import make_vec
from rlay.tools.bench import peers
from rlay.tools.bench.contenders import Contender, interleave, open_contenders, python_steps
from rlay.tools.bench.envs import cartpole
from rlay.tools.bench.plan import Plan
from rlay.tools.bench.results import Results, Row
from rlay.tools.bench.stage import Stage

GROUP = "vector"
_SEED = 7


def key_of(lanes: int, kind: str) -> str:
    """Return the key of a row: ``64/rlay_2``, ``64/sync``, ``64/async``."""
    return f"{lanes}/{kind}"


def _contender(envs: Any, lanes: int) -> Contender:
    """Step with random actions, made beforehand: constant ones end every episode at once."""
    random = np.random.default_rng(_SEED)
    actions = itertools.cycle(list(random.integers(0, 2, (64, lanes))))
    envs.reset(seed=_SEED)
    return Contender(python_steps(lambda _: envs.step(next(actions)), None))


def rlay_lanes(stage: Stage, lanes: int, workers: int) -> Contender:
    """Return rlay's vector environment."""
    envs = make_vec("CartPole-v1", lanes, workers=workers)
    stage.at_end(envs.close)
    return _contender(envs, lanes)


def sync_lanes(stage: Stage, lanes: int) -> Contender:
    """Return one process, one lane after another."""
    envs = SyncVectorEnv([cartpole] * lanes)
    stage.at_end(envs.close)
    return _contender(envs, lanes)


def async_lanes(stage: Stage, lanes: int) -> Contender:
    """Return one process for each lane."""
    envs = AsyncVectorEnv([cartpole] * lanes, context=peers.METHOD)
    stage.at_end(functools.partial(envs.close, terminate=True))
    return _contender(envs, lanes)


def _recipes(stage: Stage, plan: Plan, lanes: int) -> dict[str, Callable[[], Contender]]:
    made: dict[str, Callable[[], Contender]] = {
        key_of(lanes, "sync"): functools.partial(sync_lanes, stage, lanes),
        key_of(lanes, "async"): functools.partial(async_lanes, stage, lanes),
    }
    for workers in plan.workers:
        if workers <= lanes:
            made[key_of(lanes, f"rlay_{workers}")] = functools.partial(
                rlay_lanes, stage, lanes, workers
            )
    return made


def _label(lanes: int, kind: str) -> str:
    names = {"sync": f"SyncVectorEnv({lanes})", "async": f"AsyncVectorEnv({lanes})"}
    if kind in names:
        return names[kind]
    workers = kind.removeprefix("rlay_")
    return f"rlay, {lanes} lane{'s' * (lanes > 1)} in {workers} worker{'s' * (workers != '1')}"


def measure(stage: Stage, plan: Plan, results: Results) -> None:
    """Measure the group, one number of lanes after another."""
    for lanes in plan.lanes:
        with stage.scene():
            turns = interleave(
                results,
                GROUP,
                open_contenders(results, GROUP, _recipes(stage, plan, lanes)),
                rounds=plan.vector_rounds,
                sample_ns=plan.vector_sample_ns,
                steps=plan.steps,
            )
        for key, mine in turns.items():
            kind = key.rpartition("/")[2]
            facts = {"steps_per_round": mine.steps, "lanes": lanes, "kind": kind}
            rates = [lanes * 1e9 / per_step for per_step in mine.per_step_ns]
            results.add(Row(GROUP, key, _label(lanes, kind), "env-steps/s", rates, facts))
