"""A vector in workers gives what SyncVectorEnv gives, seed for seed, in every autoreset mode."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.vector_toys import MODES, SPACES, Wander, same, sync, vector

SPLITS = [[1], [3], [1, 1], [2, 1], [1, 2, 2]]


def _reset_over(envs: Any, ours: Any, theirs: Any, over: np.ndarray, seed: int | None) -> None:
    """Reset the lanes whose episode is over, in both vectors."""
    seeds: Any = None if seed is None else [seed + 3 * i for i in range(envs.num_envs)]
    reset = {"seed": seeds, "options": {"reset_mask": over, "level": "two"}}
    left = ours.reset(**reset)
    assert "reset_mask" in reset["options"]
    right = theirs.reset(**reset)
    assert same(left, right), (left, right)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    space=st.sampled_from(sorted(SPACES)),
    mode=st.sampled_from(MODES),
    sizes=st.sampled_from(SPLITS),
    seed=st.integers(0, 2**40),
    declared=st.booleans(),
    copy=st.booleans(),
    steps=st.integers(1, 12),
)
def test_results_equal_those_of_sync_vector_env(
    space: str,
    mode: AutoresetMode,
    sizes: list[int],
    seed: int,
    declared: bool,
    copy: bool,
    steps: int,
) -> None:
    make = functools.partial(Wander, space)
    fields = {"lap": "int64", "score": "float64"} if declared else None
    theirs = sync(sum(sizes), make, mode)
    settings = {"autoreset_mode": mode, "info_fields": fields}
    with vector(sizes, make, face={"copy": copy}, **settings) as ours:
        assert ours.num_envs == theirs.num_envs
        assert ours.single_observation_space == theirs.single_observation_space
        assert ours.observation_space == theirs.observation_space
        assert ours.action_space == theirs.action_space
        assert ours.metadata["autoreset_mode"] is mode
        ours.action_space.seed(seed)
        left, right = ours.reset(seed=seed), theirs.reset(seed=seed)
        assert same(left, right), (left, right)
        for k in range(steps):
            actions = ours.action_space.sample()
            left, right = ours.step(actions), theirs.step(actions)
            assert same(left, right), (k, left, right)
            over = left[2] | left[3]
            if mode is AutoresetMode.DISABLED and over.any():
                _reset_over(ours, ours, theirs, over, seed if k % 2 else None)
            if k == 5:
                options = {"level": k}
                left = ours.reset(seed=[None] * ours.num_envs, options=options)
                assert same(left, theirs.reset(seed=None, options=options))
    theirs.close()


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mode=st.sampled_from([AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]), data=st.data())
def test_send_and_recv_in_any_order_give_each_lane_its_own_story(
    mode: AutoresetMode, data: st.DataObject
) -> None:
    """Lanes step at their own pace; each one's results are those of an env of its own."""
    sizes = [2, 1, 2]
    make = functools.partial(Wander, "dict")
    alone = [sync(1, make, mode) for _ in range(5)]
    with vector(sizes, make, autoreset_mode=mode) as ours:
        ours.reset(seed=9)
        for lane, env in enumerate(alone):
            env.reset(seed=9 + lane)
        ours.action_space.seed(0)
        idle = {0, 1, 2, 3, 4}
        flying: dict[int, Any] = {}
        workers = [{0, 1}, {2}, {3, 4}]
        for _ in range(12):
            free = [lanes for lanes in workers if lanes <= idle]
            chosen = data.draw(st.permutations(sorted(set().union(*free)) if free else []))
            chosen = list(chosen[: data.draw(st.integers(0, len(chosen)))])
            if chosen:
                batch = ours.action_space.sample()
                actions = {key: batch[key][: len(chosen)] for key in batch}
                ours.send(actions, chosen)
                for j, lane in enumerate(chosen):
                    flying[lane] = {key: batch[key][j : j + 1] for key in batch}
                idle -= set(chosen)
            if flying:
                _check_received(ours.recv(), flying, alone)
                idle = {0, 1, 2, 3, 4} - set(flying)
        while flying:
            _check_received(ours.recv(), flying, alone)
    for env in alone:
        env.close()


def _check_received(results: Any, flying: dict[int, Any], alone: list[Any]) -> None:
    observations, rewards, terminations, truncations, infos = results
    assert infos["env_id"].dtype == np.int64
    assert len(infos["env_id"]) == len(rewards)
    for j, lane in enumerate(infos["env_id"].tolist()):
        theirs = alone[lane].step(flying.pop(lane))
        assert same(observations["eye"][j : j + 1], theirs[0]["eye"])
        assert same(observations["self"]["hp"][j : j + 1], theirs[0]["self"]["hp"])
        ours = (rewards[j], terminations[j], truncations[j])
        assert ours == (theirs[1][0], theirs[2][0], theirs[3][0])
        for key in theirs[4]:
            if key.startswith("_"):
                assert infos[key][j] == theirs[4][key][0], key
