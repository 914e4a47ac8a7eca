"""The reference port in C: its builds, both modes, and what it refuses."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.c_programs import Build, Compile, Start, finish, needs_make
from tests.c_script import CHANNEL, LOCKS, SCRIPT_LINES, peer, play
from tests.peers import WATCHDOG, until

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(sys.platform == "win32", reason="the reference port is for POSIX systems"),
    needs_make,
]


def published(start: Start, program: Path) -> subprocess.Popen[str]:
    """Start an environment as the server, and wait until it has published."""
    env = peer(start, program, "server", "env")
    control = Path(os.environ["RLAY_DIR"]) / f"{CHANNEL}.rlay"
    until(control.exists, "the environment has published")
    return env


@pytest.mark.parametrize("env_side", ["server", "client"])
@pytest.mark.parametrize("flavour", ["", "_cpp", "_sanitize"])
def test_script_gives_the_same_lines(
    build: Build, start: Start, flavour: str, env_side: str
) -> None:
    if flavour == "_cpp" and shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    program = build(f"scripted_peer{flavour}")
    assert play(start, program, env_side, build("scripted_peer")).splitlines() == SCRIPT_LINES


@pytest.mark.parametrize("env_side", ["server", "client"])
def test_cartpole_balances(build: Build, start: Start, env_side: str) -> None:
    more = ["--once"] if env_side == "server" else ["--client"]
    env = start(build("cartpole_env"), "--channel", CHANNEL, *more)
    host = [] if env_side == "server" else ["--server"]
    agent = start(build("minimal_agent"), "--channel", CHANNEL, "--episodes", "2", *host)
    assert finish(agent) == "episode 1: return 500\nepisode 2: return 500\n"
    finish(env)


def test_server_serves_one_session_after_another(build: Build, start: Start) -> None:
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


def test_client_without_a_server_says_so(build: Build, start: Start) -> None:
    agent = peer(start, build("scripted_peer"), "client", "agent", "--timeout", "0.05")
    _, err = agent.communicate(timeout=WATCHDOG)
    assert agent.returncode == 3
    assert "error 6: there is no channel" in err


def test_second_server_is_refused(build: Build, start: Start) -> None:
    program = build("scripted_peer")
    env = published(start, program)
    second = peer(start, program, "server", "env")
    _, err = second.communicate(timeout=WATCHDOG)
    assert second.returncode == 3
    assert "error 7: " in err
    finish(peer(start, program, "client", "agent"))
    finish(env)


def test_two_environments_refuse_each_other(build: Build, start: Start) -> None:
    program = build("scripted_peer")
    env = published(start, program)
    second = peer(start, program, "client", "env")
    _, err = second.communicate(timeout=WATCHDOG)
    assert "error 8: " in err
    finish(peer(start, program, "client", "agent"))
    finish(env)


def test_a_timeout_leaves_the_request_pending(
    build: Build, compile_c: Compile, start: Start
) -> None:
    program = compile_c("pending.c")
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
def test_a_faulty_agent_is_refused(build: Build, start: Start, fault: str) -> None:
    """Speak the wire by hand, with one fault."""
    fcntl = pytest.importorskip("fcntl")
    where, offset, form, value, code = FAULTS[fault]
    root = Path(os.environ["RLAY_DIR"])
    env = published(start, build("scripted_peer_sanitize"))
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
        until(lambda: control[0x300] == 2, "the environment has the hello")
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
