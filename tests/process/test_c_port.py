"""The reference port in C: its numbers, its builds, both modes, and a kill at every named point."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PORT = ROOT / "ports" / "reference_c"
SPEC = ROOT / "spec" / "PROTOCOL.md"
CHANNEL = "c-port"
LOCKS = [f"{CHANNEL}.client.lock", f"{CHANNEL}.server.lock"]
#: The watchdog: no process of these tests lives longer. Nothing is asserted about shorter times.
WATCHDOG = 90.0
PEER_LOST = 17

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(sys.platform == "win32", reason="the reference port is for POSIX systems"),
    pytest.mark.skipif(shutil.which("make") is None, reason="there is no make"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that builds one target of the Makefile, once, and gives the program's path."""
    folder = tmp_path_factory.mktemp("reference_c")

    def build_one(target: str) -> Path:
        program = folder / target
        if not program.exists():
            done = subprocess.run(
                ["make", "-C", str(PORT), f"BUILD={folder}", str(program)],
                capture_output=True,
                text=True,
                timeout=WATCHDOG,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        return program

    return build_one


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts a program; whatever still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def start_one(program: Path, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(program), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
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


def peer(start: Start, program: Path, side: str, role: str, *more: str) -> subprocess.Popen[str]:
    """Start a scripted peer."""
    return start(program, "--side", side, "--role", role, "--channel", CHANNEL, *more)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a process, check its exit code, and give its output."""
    out, err = process.communicate(timeout=WATCHDOG)
    assert process.returncode == code, f"exit code {process.returncode}: {err}"
    return out


def other(side: str) -> str:
    return "client" if side == "server" else "server"


def play(start: Start, program: Path, env_side: str, env_program: Path | None = None) -> str:
    """Run one whole script, check that it left only the locks, and give the agent's lines."""
    env = peer(start, env_program or program, env_side, "env")
    agent = peer(start, program, other(env_side), "agent")
    lines = finish(agent)
    finish(env)
    assert sorted(os.listdir(os.environ["RLAY_DIR"])) == LOCKS
    return lines


@pytest.fixture(scope="session")
def expected() -> list[str]:
    """The scripted agent's lines, computed here from the text in scripted_peer.c."""
    return list(script_lines())


def script_lines() -> Iterator[str]:
    """Play environment and agent of scripted_peer.c in Python."""
    low, high = -(2**63), 2**63 - 1
    state = {"x": 0, "k": 0}
    number = 0

    def observe(big: tuple[int, int]) -> str:
        image = bytearray()
        for _ in range(72):
            state["x"] = (state["x"] * 6364136223846793005 + 1442695040888963407) % 2**64
            image.append(state["x"] >> 33 & 0xFF)
        k = state["k"]
        values = struct.pack("<qqq", k, *big) + bytes(image)
        values += struct.pack("<ddQ", k / 3.0, -0.0, 0x7FF8000000000000 | k)
        return values.hex()

    def reset(seed: int) -> str:
        nonlocal number
        number += 1
        state.update(x=seed, k=0)
        return (
            f"RESET {number} {observe((0, 0))} reward={'0' * 16} terminated=0 truncated=0 "
            f"lap=0 x_position=- note=reset blob=- limit=-"
        )

    def step(big: tuple[int, int], gear: int) -> str:
        nonlocal number
        number += 1
        state["k"] += 1
        k = state["k"]
        if gear == -2:
            return f"ERROR ValueError: scripted failure at step {k}"
        return (
            f"STEP {number} {observe(big)} reward={struct.pack('<d', 0.1 * k + gear).hex()} "
            f"terminated={int(k == 20)} truncated={int(gear == 2)} lap={k % 7} "
            f"x_position={struct.pack('<d', k / 3.0).hex()} note=step {k} "
            f"blob={bytes([k, k + 1, k + 2]).hex()} limit={low}"
        )

    yield reset(7)
    for i in range(8):
        yield step((low + i, high - i), i % 4 - 1)
    yield reset(12345)
    for i in range(3):
        yield step((low + i, high - i), i % 4 - 1)
    yield step((0, 0), -2)
    yield reset(2**64 - 1)
    for i in range(20):
        yield step((i, -i), 0)
    yield step((0, 0), 2)


def table(name: str) -> list[list[str]]:
    """The rows of a marked table of PROTOCOL.md."""
    text = SPEC.read_text(encoding="utf-8").split(f"<!-- table:{name} -->\n")[1]
    rows = []
    for line in text.splitlines()[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


@pytest.fixture(scope="session")
def defines() -> dict[str, int]:
    """Every numeric #define of rlay.h."""
    text = (PORT / "rlay.h").read_text(encoding="utf-8")
    found = re.findall(
        r"^#define (RLAY_[A-Z0-9_]+) \(?(-?(?:0x)?[0-9A-Fa-f]+)\)?(?:\s|$)", text, re.M
    )
    return {name: int(value, 0) for name, value in found}


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("header", "OFF"), ("hello", "HELLO"), ("prefix", "PREFIX"), ("row", "ROW")],
)
def test_offsets_are_those_of_the_spec(defines: dict[str, int], name: str, prefix: str) -> None:
    rows = table(name)
    names = {row[3]: int(row[0], 16) for row in rows}
    assert len(names) == len(rows)
    for field, offset in names.items():
        assert defines[f"RLAY_{prefix}_{field.upper()}"] == offset


def test_values_are_those_of_the_spec(defines: dict[str, int]) -> None:
    rows = table("values")
    assert rows
    for names, value, _ in rows:
        for name in names.split(" / "):
            assert defines[f"RLAY_{name}"] == int(value)
    for code, name, _ in table("dtype"):
        assert defines[f"RLAY_DTYPE_{name.upper()}"] == int(code)
    for code, name, _ in table("errors"):
        assert defines[name] == int(code)
    for code, name, _ in table("extensions"):
        assert defines[f"RLAY_EXTENSION_{name.upper()}"] == int(code)


@pytest.mark.parametrize("env_side", ["server", "client"])
@pytest.mark.parametrize("flavour", ["", "_cpp", "_sanitize"])
def test_script_gives_the_same_lines(
    build: Callable[[str], Path], start: Start, expected: list[str], flavour: str, env_side: str
) -> None:
    if flavour == "_cpp" and shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    program = build(f"scripted_peer{flavour}")
    assert play(start, program, env_side, build("scripted_peer")).splitlines() == expected


@pytest.mark.parametrize("env_side", ["server", "client"])
def test_cartpole_balances(build: Callable[[str], Path], start: Start, env_side: str) -> None:
    more = ["--once"] if env_side == "server" else ["--client"]
    env = start(build("cartpole_env"), "--channel", CHANNEL, *more)
    host = [] if env_side == "server" else ["--server"]
    agent = start(build("minimal_agent"), "--channel", CHANNEL, "--episodes", "2", *host)
    assert finish(agent) == "episode 1: return 500\nepisode 2: return 500\n"
    finish(env)


def test_server_serves_one_session_after_another(
    build: Callable[[str], Path], start: Start
) -> None:
    env = start(build("cartpole_env"), "--channel", CHANNEL)
    arguments = ["--channel", CHANNEL, "--episodes", "1"]
    for _ in range(3):
        finish(start(build("minimal_agent"), *arguments))
    env.kill()
    env.communicate()
    # The next server cleans up what the killed one left.
    env = start(build("cartpole_env"), "--channel", CHANNEL, "--once")
    finish(start(build("minimal_agent"), *arguments))
    finish(env)


def test_client_without_a_server_says_so(build: Callable[[str], Path], start: Start) -> None:
    agent = peer(start, build("scripted_peer"), "client", "agent", "--timeout", "0.05")
    _, err = agent.communicate(timeout=WATCHDOG)
    assert agent.returncode == 3
    assert "error 6: there is no channel" in err


def test_second_server_is_refused(build: Callable[[str], Path], start: Start) -> None:
    program = build("scripted_peer")
    env = peer(start, program, "server", "env")
    control = Path(os.environ["RLAY_DIR"]) / f"{CHANNEL}.rlay"
    wait_for(control.exists)
    second = peer(start, program, "server", "env")
    _, err = second.communicate(timeout=WATCHDOG)
    assert second.returncode == 3
    assert "error 7: " in err
    finish(peer(start, program, "client", "agent"))
    finish(env)


def test_two_environments_refuse_each_other(build: Callable[[str], Path], start: Start) -> None:
    program = build("scripted_peer")
    env = peer(start, program, "server", "env")
    wait_for((Path(os.environ["RLAY_DIR"]) / f"{CHANNEL}.rlay").exists)
    second = peer(start, program, "client", "env")
    _, err = second.communicate(timeout=WATCHDOG)
    assert "error 8: " in err
    finish(peer(start, program, "client", "agent"))
    finish(env)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for a condition under the watchdog."""
    deadline = time.monotonic() + WATCHDOG
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.001)


#: point -> who passes it
POINTS = {
    "claimed": "client",
    "hello_written": "client",
    "hello_handed_over": "client",
    "published": "server",
    "request_half_written": "agent",
    "request_written": "agent",
    "request_handed_over": "agent",
    "request_read": "env",
    "reply_half_written": "env",
    "reply_written": "env",
    "reply_handed_over": "env",
    "closing": "both",
}


def victims() -> Iterator[tuple[str, str, int, str]]:
    """(env's side, point, passing, role of the victim) for every point, in both modes."""
    for env_side in ("server", "client"):
        for point, who in POINTS.items():
            roles = [role for role in ("env", "agent") if who in (role, "both")]
            if who in ("server", "client"):
                roles = ["env" if who == env_side else "agent"]
            counts = (1, 5) if who in ("env", "agent") else (1,)
            for role in roles:
                for count in counts:
                    yield env_side, point, count, role


@pytest.mark.leaves_files
@pytest.mark.parametrize(("env_side", "point", "count", "victim_role"), list(victims()))
def test_kill(
    build: Callable[[str], Path],
    start: Start,
    expected: list[str],
    env_side: str,
    point: str,
    count: int,
    victim_role: str,
) -> None:
    program = build("scripted_peer")
    sides = {"env": env_side, "agent": other(env_side)}
    survivor_role = "agent" if victim_role == "env" else "env"
    survivor = peer(start, program, sides[survivor_role], survivor_role)
    victim = peer(
        start,
        program,
        sides[victim_role],
        victim_role,
        *("--die-at", point, "--die-count", str(count)),
    )
    victim.communicate(timeout=WATCHDOG)
    died = time.monotonic()
    assert victim.returncode == -9
    if point in ("claimed", "hello_written", "published"):
        # There was no session to lose: the survivor goes on looking, and finds the successor.
        successor = peer(start, program, sides[victim_role], victim_role)
        lines = {
            role: finish(p) for role, p in ((survivor_role, survivor), (victim_role, successor))
        }
        assert lines["agent"].splitlines() == expected
    else:
        out, err = survivor.communicate(timeout=WATCHDOG)
        print(
            f"survivor gone {1000 * (time.monotonic() - died):.0f} ms after the kill: {err.strip()}"
        )
        assert survivor.returncode == (0 if point == "closing" else 3)
        assert (f"error {PEER_LOST}: " in err) == (point != "closing")
        if survivor_role == "agent" and point != "closing":
            answered = count if point == "reply_handed_over" else count - 1
            assert out.splitlines() == expected[:answered]
    assert play(start, program, env_side).splitlines() == expected


#: An environment with every space the port can describe, driven by rlay_poll() as an engine would.
EVERY_SPACE = r"""
#define RLAY_IMPLEMENTATION
#include "rlay.h"

static int build(rlay_schema *s) {
    static const uint32_t two[2] = {2, 3}, one[1] = {3};
    static const int64_t nvec[3] = {2, 3, 4}, start[3] = {-1, 0, 5};
    static const int16_t low[6] = {-5, -4, -3, -2, -1, 0}, high[6] = {9, 9, 9, 9, 9, 9};
    static const double bounds[3] = {1e-7, 1e16, 0.1};
    static const double wide[3] = {123456789012345680.0, 2e16, 1e300};
    static const char *const modes[] = {"rgb_array", "an\ts\"i", NULL};
    rlay_schema_config config;
    memset(&config, 0, sizeof config);
    config.env_id = "every \\ space";
    config.render_modes = modes;
    config.render_mode = "rgb_array";
    config.frame = 2 * 3 * 3;
    config.reply_body = 256;
    rlay_schema_begin(s, &config);
    rlay_schema_action(s);
    rlay_space_tuple_begin(s);
    rlay_space_multi_discrete(s, 1, one, nvec, start);
    rlay_space_multi_binary(s, 2, two);
    rlay_space_dict_begin(s);
    rlay_schema_key(s, "a/b~c");
    rlay_space_box_all(s, RLAY_DTYPE_UINT64, 1, one, 0, 9007199254740992.0);
    rlay_schema_key(s, "\"quoted\"");
    rlay_space_tuple_begin(s);
    rlay_space_discrete(s, 3, 0);
    rlay_space_tuple_end(s);
    rlay_space_dict_end(s);
    rlay_space_tuple_end(s);
    rlay_schema_info(s, "fuel");
    rlay_space_box_all(s, RLAY_DTYPE_FLOAT32, 0, NULL, -0.5, 0.1);
    rlay_schema_observation(s);
    rlay_space_dict_begin(s);
    rlay_schema_key(s, "z");
    rlay_space_box(s, RLAY_DTYPE_INT16, 2, two, low, high);
    rlay_schema_key(s, "a");
    rlay_space_box(s, RLAY_DTYPE_FLOAT64, 1, one, bounds, wide);
    rlay_schema_key(s, "half");
    rlay_space_box_all(s, RLAY_DTYPE_FLOAT16, 1, one, -1.0, 1.0);
    rlay_space_dict_end(s);
    return rlay_schema_end(s);
}

static int answer(rlay_channel *ch) {
    uint8_t *frame = (uint8_t *)rlay_data(ch, RLAY_RECORD_REPLY, "frame");
    if (ch->command == RLAY_COMMAND_RENDER) {
        for (int i = 0; i < 18; i++) frame[i] = (uint8_t)i;
        return rlay_reply_render(ch, 2, 3, 3);
    }
    memset(rlay_data(ch, RLAY_RECORD_REPLY, "observation/a"), 0, 24);
    int16_t *z = (int16_t *)rlay_data(ch, RLAY_RECORD_REPLY, "observation/z");
    for (int i = 0; i < 6; i++) z[i] = (int16_t)-i;
    if (ch->command == RLAY_COMMAND_RESET) {
        rlay_value options;
        rlay_body_put_map(ch, 1);
        rlay_body_put_str(ch, "level");
        if (rlay_body_find(ch, "level", &options) == 1) rlay_body_put_int(ch, options.as.i);
        else rlay_body_put_nil(ch);
        return rlay_reply(ch);
    }
    int64_t *steps = (int64_t *)rlay_data(ch, RLAY_RECORD_REQUEST, "action/0");
    float fuel = 0.1f;
    memcpy(rlay_info_set(ch, "fuel"), &fuel, sizeof fuel);
    if (steps[2] == 6) { /* a body that does not fit is refused, and the turn is still ours */
        char long_text[300];
        memset(long_text, 'x', sizeof long_text - 1);
        long_text[299] = 0;
        rlay_body_put_str(ch, long_text);
        if (rlay_reply_step(ch, 0.0, 0, 0) != -RLAY_E_BODY_TOO_LARGE) return -1;
        return rlay_reply_error(ch, "OverflowError", long_text);
    }
    return rlay_reply_step(ch, 2.5, 0, 0);
}

int main(int argc, char **argv) {
    static rlay_schema schema;
    static rlay_channel ch;
    if (argc != 2 || build(&schema) < 0) return fprintf(stderr, "%s\n", schema.error), 2;
    if (rlay_open(&ch, argv[1], RLAY_SIDE_SERVER, RLAY_ROLE_ENV, &schema) < 0) return 3;
    for (;;) {
        struct timespec frame = {0, 1000000};
        int result = rlay_poll(&ch);
        if (result == RLAY_READY) result = answer(&ch);
        if (result < 0) {
            if (result != -RLAY_E_PEER_CLOSED) fprintf(stderr, "%s\n", rlay_error_text(&ch));
            rlay_close(&ch);
            return result == -RLAY_E_PEER_CLOSED ? 0 : 3;
        }
        nanosleep(&frame, NULL);
    }
}
"""


def test_every_space_reaches_python(
    build: Callable[[str], Path], start: Start, tmp_path: Path
) -> None:
    import numpy as np
    from gymnasium import spaces

    import rlay

    source, program = tmp_path / "every_space.c", tmp_path / "every_space"
    source.write_text(EVERY_SPACE, encoding="utf-8")
    sanitize = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", *sanitize, f"-I{PORT}"]
    subprocess.run(
        ["cc", *flags, str(source), "-o", str(program), "-lm"], check=True, timeout=WATCHDOG
    )
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


def splitmix64(state: int) -> Iterator[float]:
    """Numbers in [0, 1) as cartpole_env.c draws them."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        yield ((z ^ z >> 31) >> 11) * 2.0**-53


def test_cartpole_is_gymnasiums(build: Callable[[str], Path], start: Start) -> None:
    import gymnasium
    import numpy as np

    import rlay

    game = start(build("cartpole_env"), "--channel", CHANNEL, "--once")
    env = rlay.ClientEnv(CHANNEL)
    reference = gymnasium.make("CartPole-v1")
    try:
        assert env.observation_space == reference.observation_space
        assert env.action_space == reference.action_space
        for seed in range(5):
            observation, _ = env.reset(seed=seed)
            reference.reset()
            numbers = splitmix64(seed)
            state = np.array([-0.05 + (0.05 - -0.05) * next(numbers) for _ in range(4)])
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


PENDING = r"""
#define RLAY_IMPLEMENTATION
#include "rlay.h"
#include <signal.h>

#define CHECK(fact)                                                                          \
    do {                                                                                     \
        if (!(fact)) return fprintf(stderr, "%s (%s)\n", #fact, rlay_error_text(&ch)), 1;    \
    } while (0)

int main(int argc, char **argv) {
    static rlay_channel ch;
    const uint64_t seed = 1;
    pid_t env = argc == 3 ? (pid_t)atol(argv[2]) : 0;
    CHECK(env > 0);
    CHECK(rlay_open(&ch, argv[1], RLAY_SIDE_CLIENT, RLAY_ROLE_AGENT, NULL) == RLAY_OK);
    CHECK(rlay_wait(&ch, 10000000000) == RLAY_READY);
    CHECK(rlay_step(&ch, RLAY_FOREVER) == -RLAY_E_LOCAL_PROTOCOL);
    CHECK(rlay_render(&ch, RLAY_FOREVER) == -RLAY_E_LOCAL_PROTOCOL);
    CHECK(rlay_reset(&ch, &seed, RLAY_FOREVER) == RLAY_READY);
    kill(env, SIGSTOP);
    while (rlay_step(&ch, 50000000) == RLAY_READY) continue; /* until the stop has taken effect */
    uint64_t pending = ch.seq;
    CHECK(rlay_wait(&ch, 5000000) == -RLAY_E_TIMEOUT);
    CHECK(rlay_poll(&ch) == RLAY_PENDING);
    CHECK(rlay_step(&ch, 5000000) == -RLAY_E_LOCAL_PROTOCOL);
    CHECK(rlay_reset(&ch, NULL, 5000000) == -RLAY_E_LOCAL_PROTOCOL);
    kill(env, SIGCONT);
    CHECK(rlay_wait(&ch, 10000000000) == RLAY_READY);
    CHECK(ch.seq == pending);
    CHECK(rlay_step(&ch, RLAY_FOREVER) == RLAY_READY);
    CHECK(ch.seq == pending + 1);
    rlay_close(&ch);
    CHECK(rlay_poll(&ch) == -RLAY_E_LOCAL_PROTOCOL);
    rlay_close(&ch);
    return 0;
}
"""


def test_a_timeout_leaves_the_request_pending(
    build: Callable[[str], Path], start: Start, tmp_path: Path
) -> None:
    source, program = tmp_path / "pending.c", tmp_path / "pending"
    source.write_text(PENDING, encoding="utf-8")
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{PORT}"]
    subprocess.run(
        ["cc", *flags, str(source), "-o", str(program), "-lm"], check=True, timeout=WATCHDOG
    )
    env = start(build("cartpole_env"), "--channel", CHANNEL, "--once")
    finish(start(program, CHANNEL, str(env.pid)))
    finish(env)


#: What a faulty agent writes: where, offset, format, value; and the code the port answers with.
FAULTS = {
    "same_role": ("hello", 0x04, "<B", 1, 8),
    "unknown_role": ("hello", 0x04, "<B", 9, 8),
    "future_version": ("hello", 0x00, "<I", 0x00030002, 9),
    "version_zero": ("hello", 0x00, "<I", 0x00010000, 8),
    "seq": ("request", 0x00, "<Q", 2, 14),
    "unknown_command": ("request", 0x08, "<I", 77, 14),
    "step_before_reset": ("request", 0x08, "<I", 2, 14),
    "render_not_agreed": ("request", 0x08, "<I", 3, 14),
    "call_not_agreed": ("request", 0x08, "<I", 4, 14),
    "status": ("request", 0x0C, "<I", 1, 14),
    "body_size": ("request", 0x10, "<I", 65537, 14),
    "session": ("request", 0x18, "<Q", 5, 14),
    "turn_word": ("turn", 0x300, "<I", 7, 14),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_agent_is_refused(build: Callable[[str], Path], start: Start, fault: str) -> None:
    """Speak the wire by hand, with one fault."""
    fcntl = pytest.importorskip("fcntl")
    where, offset, form, value, code = FAULTS[fault]
    root = Path(os.environ["RLAY_DIR"])
    env = peer(start, build("scripted_peer_sanitize"), "server", "env")
    wait_for((root / f"{CHANNEL}.rlay").exists)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context((root / LOCKS[0]).open("r+b"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = stack.enter_context((root / f"{CHANNEL}.rlay").open("r+b"))
        control = stack.enter_context(mmap.mmap(file.fileno(), 0))
        struct.pack_into("<I", control, 0x408, 1)
        struct.pack_into("<HHB", control, 0x100, 1, 1, 2)
        if where == "hello":
            struct.pack_into(form, control, 0x100 + offset, value)
        struct.pack_into("<I", control, 0x300, 1)
        wait_for(lambda: control[0x300] == 2)
        status, refusal = struct.unpack_from("<II", control, 0x200)
        if where == "hello":
            assert (status, refusal) == (2, code)
        else:
            assert status == 1
            (generation,) = struct.unpack_from("<Q", control, 0x18)
            data_file = (root / f"{CHANNEL}.{generation:016x}.data").open("r+b")
            data = stack.enter_context(mmap.mmap(stack.enter_context(data_file).fileno(), 0))
            struct.pack_into("<QIII", data, 0, 1, 1, 0, 0)
            if where == "request":
                struct.pack_into(form, data, offset, value)
            struct.pack_into("<I", control, 0x300, value if where == "turn" else 1)
            _, err = env.communicate(timeout=WATCHDOG)
            assert env.returncode == 3
            assert f"error {code}: " in err
            assert control[0x384] == 2
    if where == "hello":
        # The server goes on; the next client finds a fresh control file.
        finish(peer(start, build("scripted_peer"), "client", "agent"))
        finish(env)
