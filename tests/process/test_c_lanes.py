"""The reference port in C: lanes behind a channel for ``VectorEnv``, and its ways of waiting."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import rlay
from tests.process.test_c_port import (
    PEER_LOST,
    PORT,
    WATCHDOG,
    finish,
    script_lines,
    splitmix64,
    wait_for,
)
from tests.vector_toys import same

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(sys.platform == "win32", reason="the reference port is for POSIX systems"),
    pytest.mark.skipif(shutil.which("make") is None, reason="there is no make"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
]

FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", f"-I{PORT}"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
MODES = ["disabled", "next_step", "same_step"]
STRATEGIES = ["adaptive", "spin", "backoff", "block"]
SERVER_WAITING = 0x380

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the programs, built."""
    folder = tmp_path_factory.mktemp("c_lanes")
    names = ["cartpole_env", "cartpole_env_sanitize", "scripted_peer"]
    targets = [str(folder / name) for name in names]
    make = ["make", "-j2", "-C", str(PORT), f"BUILD={folder}", *targets]
    done = subprocess.run(make, capture_output=True, text=True, timeout=WATCHDOG, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    source = folder / "two_lanes.c"
    source.write_text(TWO_LANES, encoding="utf-8")
    cc = ["cc", *FLAGS, *SANITIZE, str(source), "-o", str(folder / "two_lanes"), "-lm"]
    subprocess.run(cc, check=True, timeout=WATCHDOG)
    return folder


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts a program; whatever still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def start_one(program: Path, *arguments: str, wait: str = "") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(program), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "RLAY_WAIT": wait},
            text=True,
        )
        running.append(process)
        return process

    try:
        yield start_one
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.communicate()


def start_lanes(
    start: Start, programs: Path, channel: str, lanes: int, mode: str
) -> subprocess.Popen[str]:
    """Start a server of CartPoles behind one channel, with the sanitizers on."""
    program = programs / "cartpole_env_sanitize"
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
    programs: Path, start: Start, channel_root: Path, mode: str, sizes: list[int]
) -> None:
    channels = [f"lanes-{i}" for i in range(len(sizes))]
    count = sum(sizes)
    servers = [
        start_lanes(start, programs, channel, lanes, mode)
        for channel, lanes in zip(channels, sizes, strict=True)
    ]
    for i in range(count):
        servers.append(start(programs / "cartpole_env", "--channel", f"one-{i}", "--once"))
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


def test_lanes_have_gymnasiums_physics(programs: Path, start: Start) -> None:
    server = start_lanes(start, programs, "lanes", 4, "next_step")
    references = [gymnasium.make("CartPole-v1") for _ in range(4)]
    with contextlib.closing(attach(["lanes"])) as envs:
        observations, _ = envs.reset(seed=11)
        for lane, reference in enumerate(references):
            numbers = splitmix64(11 + lane)
            state = np.array([-0.05 + (0.05 - -0.05) * next(numbers) for _ in range(4)])
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


def test_only_the_lanes_that_act_move(programs: Path, start: Start) -> None:
    server = start_lanes(start, programs, "lanes", 2, "next_step")
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


def test_lanes_refuse_what_they_cannot_do(programs: Path, start: Start) -> None:
    server = start_lanes(start, programs, "lanes", 2, "disabled")
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
    program = programs / "cartpole_env"
    for arguments in (
        ["--lanes", "2000"],
        ["--lanes", "2", "--client"],
        ["--autoreset", "disabled"],
    ):
        finish(start(program, *arguments), 2)
    finish(start(program, "--lanes", "2", "--autoreset", "sometimes"), 2)


def test_a_killed_server_of_lanes_is_lost_and_its_successor_cleans_up(
    programs: Path, start: Start, channel_root: Path
) -> None:
    server = start_lanes(start, programs, "lanes", 2, "next_step")
    with contextlib.closing(attach(["lanes"])) as envs:
        first, _ = envs.reset(seed=1)
        envs.step([0, 1])
        server.kill()
        server.communicate(timeout=WATCHDOG)
        with pytest.raises(rlay.PeerLostError, match="lanes 0 to 1"):
            envs.step([0, 1])
        server = start_lanes(start, programs, "lanes", 2, "next_step")
        again, _ = envs.reset(seed=1)
        assert same(first, again)
    finish(server)
    assert {path.suffix for path in channel_root.iterdir()} == {".lock"}


#: An environment of two lanes with every kind of row, and an agent of CartPole's lanes.
TWO_LANES = r"""
#define RLAY_IMPLEMENTATION
#include "rlay.h"

#define CHECK(fact)                                                                          \
    do {                                                                                     \
        if (!(fact)) return fprintf(stderr, "%s (%s)\n", #fact, rlay_error_text(ch)), -99;   \
    } while (0)

static int build(rlay_schema *s, uint32_t lanes, const char *autoreset) {
    static const uint32_t two[1] = {2};
    rlay_schema_config config;
    memset(&config, 0, sizeof config);
    config.lanes = lanes;
    config.autoreset = autoreset;
    config.frame = 12;
    rlay_schema_begin(s, &config);
    rlay_schema_action(s);
    rlay_space_box_all(s, RLAY_DTYPE_FLOAT32, 1, two, -9.0, 9.0);
    rlay_schema_info(s, "fuel");
    rlay_space_box_all(s, RLAY_DTYPE_FLOAT64, 0, NULL, 0.0, 1.0);
    rlay_schema_observation(s);
    rlay_space_dict_begin(s);
    rlay_schema_key(s, "a/b");
    rlay_space_box_all(s, RLAY_DTYPE_FLOAT32, 1, two, -9.0, 9.0);
    rlay_schema_key(s, "k");
    rlay_space_discrete(s, 9, 0);
    rlay_space_dict_end(s);
    return rlay_schema_end(s);
}

static void observe(rlay_channel *ch, const char *path, uint32_t lane, float a, int64_t k) {
    char name[64];
    snprintf(name, sizeof name, "%s/a~1b", path);
    ((float *)rlay_data(ch, RLAY_RECORD_REPLY, name))[2 * lane] = a;
    ((float *)rlay_data(ch, RLAY_RECORD_REPLY, name))[2 * lane + 1] = -a;
    snprintf(name, sizeof name, "%s/k", path);
    ((int64_t *)rlay_data(ch, RLAY_RECORD_REPLY, name))[lane] = k;
}

static int reset(rlay_channel *ch) {
    uint32_t acting = (uint32_t)rlay_lane_acts(ch, 0) + (uint32_t)rlay_lane_acts(ch, 1);
    rlay_body_put_map(ch, 1);
    rlay_body_put_str(ch, "infos");
    rlay_body_put_map(ch, acting);
    for (uint32_t i = 0; i < 2; i++) {
        uint64_t seed = 77;
        if (!rlay_lane_acts(ch, i)) continue;
        rlay_lane_seed(ch, i, &seed);
        observe(ch, "observation", i, 0.5f, (int64_t)i);
        rlay_body_put_uint(ch, i);
        rlay_body_put_map(ch, 1);
        rlay_body_put_str(ch, "seed");
        rlay_body_put_uint(ch, seed);
    }
    CHECK(!rlay_lane_acts(ch, 2));
    return rlay_reply_lanes(ch);
}

static int step(rlay_channel *ch) {
    const float *action = (const float *)rlay_data(ch, RLAY_RECORD_REQUEST, "action");
    double *reward = (double *)rlay_data(ch, RLAY_RECORD_REPLY, "reward");
    double *fuel = (double *)rlay_data(ch, RLAY_RECORD_REPLY, "info.fuel");
    uint8_t *terminated = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "terminated");
    uint8_t *truncated = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "truncated");
    uint8_t *fuelled = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "info.fuel#present");
    uint8_t *final = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "final_observation#present");
    for (uint32_t i = 0; i < 2; i++) {
        CHECK(reward[i] == 0.0 && !terminated[i] && !truncated[i] && !fuelled[i] && !final[i]);
        if (!rlay_lane_acts(ch, i)) continue;
        observe(ch, "observation", i, action[2 * i], 5);
        reward[i] = action[2 * i];
        if (action[2 * i] > 0) fuel[i] = 0.25, fuelled[i] = 1;
        if (action[2 * i + 1] == 0) continue;
        truncated[i] = 1;
        terminated[i] = action[2 * i + 1] > 1;
        observe(ch, "final_observation", i, action[2 * i], 6);
        final[i] = 1;
        observe(ch, "observation", i, 0.5f, 7);
    }
    CHECK(rlay_reply_step(ch, 1.0, 0, 0) == -RLAY_E_LOCAL_PROTOCOL);
    return rlay_reply_lanes(ch);
}

static int play_env(rlay_channel *ch, rlay_schema *schema, const char *name) {
    CHECK(build(schema, 0, "next_step") == -RLAY_E_SCHEMA);
    CHECK(build(schema, 2, "sometimes") == -RLAY_E_SCHEMA);
    CHECK(strstr(schema->error, "disabled, next_step, same_step"));
    CHECK(build(schema, 2, "same_step") == RLAY_OK);
    CHECK(rlay_open(ch, name, RLAY_SIDE_SERVER, RLAY_ROLE_ENV, schema) == RLAY_OK);
    CHECK(rlay_wait_strategy(ch, RLAY_WAIT_BLOCK + 1) == -RLAY_E_LOCAL_PROTOCOL);
    CHECK(rlay_wait_strategy(ch, RLAY_WAIT_BLOCK) == RLAY_OK);
    for (;;) {
        int result = rlay_wait(ch, RLAY_FOREVER);
        if (result == RLAY_READY) result = ch->command == RLAY_COMMAND_RESET ? reset(ch) : step(ch);
        if (result < 0) return result;
    }
}

/* One seed for all lanes: that of lane i is seed + i. */
static int play_agent(rlay_channel *ch, const char *name) {
    const uint64_t seed = UINT64_MAX;
    CHECK(rlay_open(ch, name, RLAY_SIDE_CLIENT, RLAY_ROLE_AGENT, NULL) == RLAY_OK);
    CHECK(rlay_wait(ch, 30000000000) == RLAY_READY);
    memset(rlay_data(ch, RLAY_RECORD_REQUEST, "mask"), 1, 2);
    CHECK(rlay_reset(ch, &seed, 30000000000) == RLAY_READY);
    const float *seen = (const float *)rlay_data(ch, RLAY_RECORD_REPLY, "observation");
    for (int i = 0; i < 8; i++) printf("%.9g\n", seen[i]);
    return -RLAY_E_PEER_CLOSED;
}

int main(int argc, char **argv) {
    static rlay_schema schema;
    static rlay_channel channel;
    if (argc != 3) return 2;
    int env = strcmp(argv[2], "env") == 0;
    int result = env ? play_env(&channel, &schema, argv[1]) : play_agent(&channel, argv[1]);
    if (result != -RLAY_E_PEER_CLOSED) fprintf(stderr, "%s\n", rlay_error_text(&channel));
    rlay_close(&channel);
    return result == -RLAY_E_PEER_CLOSED ? 0 : 3;
}
"""


def test_every_row_of_a_group_with_lanes(programs: Path, start: Start) -> None:
    server = start(programs / "two_lanes", "two", "env")
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


def test_one_seed_for_all_lanes_counts_on(programs: Path, start: Start) -> None:
    server = start_lanes(start, programs, "lanes", 2, "disabled")
    lines = finish(start(programs / "two_lanes", "lanes", "agent")).split()
    finish(server)
    seeded = [splitmix64(2**64 - 1), splitmix64(0)]
    state = [-0.05 + (0.05 - -0.05) * next(numbers) for numbers in seeded for _ in range(4)]
    assert [np.float32(line) for line in lines] == [np.float32(number) for number in state]


@pytest.mark.parametrize("wait", STRATEGIES)
def test_a_pair_plays_with_each_way_of_waiting(programs: Path, start: Start, wait: str) -> None:
    program = programs / "scripted_peer"
    sides = [("server", "env"), ("client", "agent")]
    env, agent = (
        start(program, "--side", side, "--role", role, "--channel", "pair", wait=wait)
        for side, role in sides
    )
    assert finish(agent).splitlines() == list(script_lines())
    finish(env)


@pytest.mark.parametrize("wait", STRATEGIES)
def test_a_dead_peer_is_noticed_with_each_way_of_waiting(
    programs: Path, start: Start, wait: str
) -> None:
    program = programs / "scripted_peer"
    pair = ["--channel", "pair"]
    agent = start(program, "--side", "server", "--role", "agent", *pair, wait=wait)
    env = ["--side", "client", "--role", "env", *pair]
    victim = start(program, *env, "--die-at", "request_read", "--die-count", "3")
    victim.communicate(timeout=WATCHDOG)
    assert victim.returncode == -9
    _, err = agent.communicate(timeout=WATCHDOG)
    assert agent.returncode == 3
    assert f"error {PEER_LOST}: " in err


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be chosen")
def test_a_pair_plays_on_one_processor(programs: Path, start: Start) -> None:
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(ours)})  # children inherit it
    try:
        arguments = ["--channel", "pair", "--role"]
        env = start(programs / "scripted_peer", "--side", "server", *arguments, "env")
        agent = start(programs / "scripted_peer", "--side", "client", *arguments, "agent")
    finally:
        os.sched_setaffinity(0, ours)
    assert finish(agent).splitlines() == list(script_lines())
    finish(env)


@pytest.mark.parametrize("wait", STRATEGIES)
def test_only_a_sleeper_asks_to_be_woken(
    programs: Path, start: Start, channel_root: Path, wait: str
) -> None:
    server = start(programs / "cartpole_env", "--channel", "one", "--once", wait=wait)
    path = channel_root / "one.rlay"
    wait_for(path.exists)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        control = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        stack.callback(control.close)
        if wait in ("adaptive", "block"):
            wait_for(lambda: control[SERVER_WAITING] == 1)
        env = rlay.ClientEnv("one", timeout=WATCHDOG, attach_timeout=WATCHDOG)
        stack.callback(env.close)
        for episode in range(3):
            observation, _ = env.reset(seed=episode)
            assert observation.dtype == np.float32
            ended = False
            while not ended:
                _, _, terminated, truncated, _ = env.step(1)
                ended = terminated or truncated
                if wait in ("spin", "backoff"):
                    assert control[SERVER_WAITING] == 0
    finish(server)


def test_an_unknown_way_of_waiting_is_an_error(
    programs: Path, start: Start, channel_root: Path
) -> None:
    server = start(programs / "cartpole_env", "--channel", "one", "--once", wait="quickly")
    _, err = server.communicate(timeout=WATCHDOG)
    assert server.returncode == 3
    assert "RLAY_WAIT='quickly': use one of adaptive, spin, backoff, block" in err
    assert list(channel_root.iterdir()) == []
