"""The reference port in C: what Python sees of its spaces and of its CartPole."""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import rlay
from tests.c_cartpole import cartpole_start
from tests.c_programs import SANITIZE, Build, Compile, Start, finish, needs_make
from tests.c_script import CHANNEL

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(sys.platform == "win32", reason="the reference port is for POSIX systems"),
    needs_make,
]


def test_every_space_reaches_python(compile_c: Compile, start: Start) -> None:
    program = compile_c("every_space.c", *SANITIZE)
    game = start(program, CHANNEL)
    env = rlay.ClientEnv(CHANNEL)
    try:
        assert env.action_space == spaces.Tuple(
            [
                spaces.MultiDiscrete([2, 3, 4], start=[-1, 0, 5]),
                spaces.MultiBinary([2, 3]),
                spaces.Dict(
                    [
                        ("a/b~c", spaces.Box(0, 2**53, (3,), np.uint64)),
                        ('"quoted"', spaces.Tuple([spaces.Discrete(3)])),
                    ]
                ),
            ]
        )
        low = np.array([[-5, -4, -3], [-2, -1, 0]], np.int16)
        wide = np.array([123456789012345680.0, 2e16, 1e300])
        observation_space = env.observation_space
        assert isinstance(observation_space, spaces.Dict)
        assert list(observation_space.spaces) == ["z", "a", "half"]
        assert observation_space["z"] == spaces.Box(
            low, np.full((2, 3), 9, np.int16), dtype=np.int16
        )
        assert observation_space["a"] == spaces.Box(
            np.array([1e-7, 1e16, 0.1]), wide, dtype=np.float64
        )
        assert observation_space["half"] == spaces.Box(-1, 1, (3,), np.float16)
        _, info = env.reset(seed=1, options={"level": 3})
        assert info == {"level": 3}
        observation, info = env.reset()
        assert info == {"level": None}
        assert observation["z"].tolist() == [[0, -1, -2], [-3, -4, -5]]
        action = env.action_space.sample()
        action[0][2] = 5
        _, reward, _, _, info = env.step(action)
        assert reward == 2.5
        assert info == {"fuel": np.float32(0.1)}
        assert np.array_equal(env.render(), np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
        action[0][2] = 6
        with pytest.raises(rlay.RemoteError, match="OverflowError") as caught:
            env.step(action)
        assert 0 < len(caught.value.message) < 256
    finally:
        env.close()
    finish(game)


def test_cartpole_is_gymnasiums(build: Build, start: Start) -> None:
    game = start(build("cartpole_env"), "--channel", CHANNEL, "--once")
    env = rlay.ClientEnv(CHANNEL)
    reference = gymnasium.make("CartPole-v1")
    try:
        assert env.observation_space == reference.observation_space
        assert env.action_space == reference.action_space
        for seed in range(5):
            observation, _ = env.reset(seed=seed)
            reference.reset()
            state = np.array(cartpole_start(seed))
            reference.unwrapped.state = state
            assert observation.tobytes() == state.astype(np.float32).tobytes()
            ended = False
            while not ended:
                balance = 0.1 * observation[0] + 0.3 * observation[1] + 3 * observation[2]
                action = int(balance + observation[3] > 0) if seed else 1
                observation, *rest = env.step(action)
                expected, *expected_rest = reference.step(action)
                # One unit in the last place: the C library's cosine need not be NumPy's.
                np.testing.assert_array_max_ulp(observation, expected, maxulp=1)
                assert rest == expected_rest
                ended = rest[1] or rest[2]
    finally:
        env.close()
        reference.close()
    finish(game)
