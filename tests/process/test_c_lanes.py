"""The reference port in C: lanes behind a channel for ``VectorEnv``."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import rlay
from tests.c_cartpole import cartpole_start
from tests.c_programs import SANITIZE, Build, Compile, Start, finish, needs_make
from tests.peers import WATCHDOG
from tests.vector_toys import same

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(sys.platform == "win32", reason="the reference port is for POSIX systems"),
    needs_make,
]

MODES = ["disabled", "next_step", "same_step"]


def start_lanes(
    start: Start, build: Build, channel: str, lanes: int, mode: str
) -> subprocess.Popen[str]:
    """Start a server of CartPoles behind one channel, with the sanitizers on."""
    program = build("cartpole_env_sanitize")
    arguments = ["--channel", channel, "--lanes", str(lanes), "--autoreset", mode, "--once"]
    return start(program, *arguments)


def attach(channels: list[str]) -> rlay.VectorEnv:
    return rlay.VectorEnv(channels, timeout=WATCHDOG, attach_timeout=WATCHDOG)


def push(observations: np.ndarray) -> np.ndarray:
    """Return actions: even lanes balance, odd ones fall."""
    actions = (observations @ np.array([0.1, 0.3, 3.0, 1.0]) > 0).astype(np.int64)
    actions[1::2] = 1
    return actions


@pytest.mark.parametrize("sizes", [[3], [2, 3]], ids=["one_server", "two_servers"])
@pytest.mark.parametrize("mode", MODES)
def test_lanes_play_as_single_cartpoles_in_a_sync_vector_env(
    build: Build, start: Start, channel_root: Path, mode: str, sizes: list[int]
) -> None:
    channels = [f"lanes-{i}" for i in range(len(sizes))]
    count = sum(sizes)
    servers = [
        start_lanes(start, build, channel, lanes, mode)
        for channel, lanes in zip(channels, sizes, strict=True)
    ]
    for i in range(count):
        servers.append(start(build("cartpole_env"), "--channel", f"one-{i}", "--once"))
    singles = [
        lambda i=i: rlay.ClientEnv(f"one-{i}", attach_timeout=WATCHDOG) for i in range(count)
    ]
    autoreset = gymnasium.vector.AutoresetMode[mode.upper()]
    ended = np.zeros(2, np.int64)
    with contextlib.ExitStack() as stack:
        envs = stack.enter_context(contextlib.closing(attach(channels)))
        reference = gymnasium.vector.SyncVectorEnv(singles, autoreset_mode=autoreset)
        stack.callback(reference.close)
        assert envs.lanes == tuple(sizes)
        assert envs.metadata["autoreset_mode"] is autoreset
        assert envs.single_observation_space == reference.single_observation_space
        assert envs.observation_space == reference.observation_space
        assert envs.action_space == reference.action_space
        result = envs.reset(seed=3)
        assert same(result, reference.reset(seed=3))
        observations = result[0]
        assert (observations.dtype, observations.shape) == (np.float32, (count, 4))
        for _ in range(520 if len(sizes) == 1 else 60):
            actions = push(observations)
            result = envs.step(actions)
            assert same(result, reference.step(actions))
            observations, rewards, terminations, truncations, _ = result
            assert (rewards.dtype, rewards.shape) == (np.float64, (count,))
            assert terminations.dtype == truncations.dtype == np.bool_
            ended += [terminations.sum(), truncations.sum()]
            over = terminations | truncations
            if mode == "disabled" and over.any():
                result = envs.reset(options={"reset_mask": over})
                assert same(result, reference.reset(options={"reset_mask": over}))
                observations = result[0]
    assert ended[0] > 3
    assert ended[1] > 0 or len(sizes) == 2
    for server in servers:
        finish(server)
    assert {path.suffix for path in channel_root.iterdir()} == {".lock"}


def test_lanes_have_gymnasiums_physics(build: Build, start: Start) -> None:
    server = start_lanes(start, build, "lanes", 4, "next_step")
    references = [gymnasium.make("CartPole-v1") for _ in range(4)]
    with contextlib.closing(attach(["lanes"])) as envs:
        observations, _ = envs.reset(seed=11)
        for lane, reference in enumerate(references):
            state = np.array(cartpole_start(11 + lane))
            reference.reset()
            reference.unwrapped.state = state
            assert observations[lane].tobytes() == state.astype(np.float32).tobytes()
        playing = set(range(4))
        while 1 in playing or 3 in playing:
            actions = push(observations)
            observations, rewards, terminations, truncations, _ = envs.step(actions)
            for lane in sorted(playing):
                expected, *rest = references[lane].step(int(actions[lane]))
                # One unit in the last place: the C library's cosine need not be NumPy's.
                np.testing.assert_array_max_ulp(observations[lane], expected, maxulp=1)
                assert [rewards[lane], terminations[lane], truncations[lane]] == rest[:3]
                if rest[1] or rest[2]:
                    playing.remove(lane)
    finish(server)


def test_only_the_lanes_that_act_move(build: Build, start: Start) -> None:
    server = start_lanes(start, build, "lanes", 2, "next_step")
    with contextlib.closing(attach(["lanes"])) as envs:
        envs.reset(seed=4)
        together = [envs.step([1, 1])[0] for _ in range(3)]
        envs.reset(seed=4)
        for expected in together[:2]:
            envs.send(np.array([1]), [0])
            observations, rewards, _, _, infos = envs.recv()
            assert observations.tolist() == expected[:1].tolist()
            assert (rewards.tolist(), infos["env_id"].tolist()) == ([1], [0])
        observations = envs.step([1, 1])[0]
        assert observations[0].tolist() == together[2][0].tolist()
        assert observations[1].tolist() == together[0][1].tolist()
    finish(server)


def test_lanes_refuse_what_they_cannot_do(build: Build, start: Start) -> None:
    server = start_lanes(start, build, "lanes", 2, "disabled")
    with contextlib.closing(attach(["lanes"])) as envs:
        envs.reset(seed=1)
        with pytest.raises(rlay.RemoteError, match="the action must be 0 or 1"):
            envs.step([1, 2])
        envs.reset(seed=1)
        over = np.zeros(2, np.bool_)
        while not over.any():
            _, _, over, _, _ = envs.step([1, 0])
        with pytest.raises(rlay.LocalProtocolError, match="are over"):
            envs.step([1, 0])
    finish(server)
    program = build("cartpole_env")
    for arguments in (
        ["--lanes", "2000"],
        ["--lanes", "2", "--client"],
        ["--autoreset", "disabled"],
    ):
        finish(start(program, *arguments), 2)
    finish(start(program, "--lanes", "2", "--autoreset", "sometimes"), 2)


def test_a_killed_server_of_lanes_is_lost_and_its_successor_cleans_up(
    build: Build, start: Start, channel_root: Path
) -> None:
    server = start_lanes(start, build, "lanes", 2, "next_step")
    with contextlib.closing(attach(["lanes"])) as envs:
        first, _ = envs.reset(seed=1)
        envs.step([0, 1])
        server.kill()
        server.communicate(timeout=WATCHDOG)
        with pytest.raises(rlay.PeerLostError, match="lanes 0 to 1"):
            envs.step([0, 1])
        server = start_lanes(start, build, "lanes", 2, "next_step")
        again, _ = envs.reset(seed=1)
        assert same(first, again)
    finish(server)
    assert {path.suffix for path in channel_root.iterdir()} == {".lock"}


def test_every_row_of_a_group_with_lanes(compile_c: Compile, start: Start) -> None:
    server = start(compile_c("two_lanes.c", *SANITIZE), "two", "env")
    with contextlib.closing(attach(["two"])) as envs:
        observations, infos = envs.reset(seed=2**62)
        assert observations["a/b"].tolist() == [[0.5, -0.5]] * 2
        assert observations["k"].tolist() == [0, 1]
        assert infos["seed"].tolist() == [2**62, 2**62 + 1]
        observations, rewards, terminations, truncations, infos = envs.step(
            np.array([[2, 1], [-3, 0]], np.float32)
        )
        assert observations["a/b"].tolist() == [[0.5, -0.5], [-3, 3]]
        assert observations["k"].tolist() == [7, 5]
        assert rewards.tolist() == [2, -3]
        assert terminations.tolist() == [False, False]
        assert truncations.tolist() == [True, False]
        assert infos["_final_obs"].tolist() == [True, False]
        assert infos["final_obs"][0]["a/b"].tolist() == [2, -2]
        assert infos["final_obs"][0]["k"] == 6
        assert infos["fuel"].tolist() == [0.25, 0]
        assert infos["_fuel"].tolist() == [True, False]
        # One lane acts: the other one's observation stays, and nothing else does.
        envs.send(np.array([[4, 2]], np.float32), [1])
        _, rewards, terminations, _, infos = envs.recv()
        assert (rewards.tolist(), terminations.tolist()) == ([4], [True])
        assert infos["env_id"].tolist() == [1]
        _, rewards, _, truncations, infos = envs.step(np.array([[1, 0], [-1, 0]], np.float32))
        assert (rewards.tolist(), truncations.tolist()) == ([1, -1], [False, False])
        assert "final_obs" not in infos
        mask = np.array([False, True])
        observations, infos = envs.reset(seed=[None, 9], options={"reset_mask": mask})
        assert observations["k"].tolist() == [5, 1]
        assert infos["_seed"].tolist() == [False, True]
        assert infos["seed"][1] == 9
    finish(server)


def test_one_seed_for_all_lanes_counts_on(build: Build, compile_c: Compile, start: Start) -> None:
    server = start_lanes(start, build, "lanes", 2, "disabled")
    lines = finish(start(compile_c("two_lanes.c", *SANITIZE), "lanes", "agent")).split()
    finish(server)
    state = [*cartpole_start(2**64 - 1), *cartpole_start(0)]
    assert [np.float32(line) for line in lines] == [np.float32(number) for number in state]
