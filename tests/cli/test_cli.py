"""The command line: help, serve, inspect, and the exit codes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlay
from rlay import cli
from rlay.protocol.header import HEADER, HELLO
from tests.peers import MODES, ROOT, WATCHDOG, environment, hosted, until
from tests.toys import Counter

CHANNEL = "cli"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run ``rlay`` in this process; return exit code, output and errors."""
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    """A function that starts ``rlay serve``; what still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        errors = tmp_path / f"serve-{len(started)}"
        # A shell's background job ignores Ctrl-C, and its children inherit that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(errors.open("wb"))
            stack.callback(signal.signal, signal.SIGINT, before)
            process = subprocess.Popen(
                [sys.executable, "-m", "rlay", "serve", *arguments],
                stderr=stream,
                cwd=ROOT,
                env=environment(),
            )
        started.append(process)
        until(
            lambda: "serving" in errors.read_text() or process.poll() is not None,
            "rlay serve says that it serves",
        )
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert (code, "serve" in out, "inspect" in out) == (0, True, True)
    assert run(capsys, "--version") == (0, f"rlay {rlay.__version__}\n", "")
    for tool in ("serve", "inspect"):
        code, out, _ = run(capsys, tool, "--help")
        assert (code, "example: rlay" in out) == (0, True)


@pytest.mark.parametrize("arguments", [(), ("dance",), ("serve",), ("inspect", "a", "--colour")])
def test_wrong_usage(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, errors = run(capsys, *arguments)
    assert (code, out, "usage: rlay" in errors) == (2, "", True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("CartPole-v1", "--kwargs", "{"), "--kwargs is not JSON"),
        (("CartPole-v1", "--kwargs", "[1]"), "must be a JSON object"),
        (("NoSuchGame-v0",), "NoSuchGame-v0 cannot be made: NameNotFound"),
        (("no.such.module:env",), "ModuleNotFoundError"),
        (("json:dumps", "--kwargs", '{"obj": 1}'), "not a gymnasium.Env"),
        (("CartPole-v1", "--kwargs", '{"colour": 1}'), "cannot be made: TypeError"),
    ],
)
def test_serve_what_cannot_be_served(
    arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, errors = run(capsys, "serve", *arguments)
    assert (code, out) == (1, "")
    assert errors.startswith("rlay: ")
    assert text in errors


def test_serve_a_taken_or_impossible_name(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(rlay.ServerBackend(CHANNEL, Counter())):
        code, _, errors = run(capsys, "serve", "CartPole-v1", "--channel", CHANNEL)
        assert (code, "already has a live server" in errors) == (3, True)
    code, _, errors = run(capsys, "serve", "CartPole-v1", "--channel", "a/b")
    assert (code, "channel name 'a/b'" in errors) == (3, True)


def test_serve_agents_and_end(serve: Any) -> None:
    process = serve(
        "tests.toys:Counter",
        "--channel",
        CHANNEL,
        "--sessions",
        "2",
        "--kwargs",
        '{"who": "served"}',
    )
    for _ in range(2):
        assert process.poll() is None
        env = rlay.ClientEnv(CHANNEL, timeout=WATCHDOG, attach_timeout=WATCHDOG)
        try:
            assert env.reset()[1]["who"] == "served"
            assert env.step(3)[1] == 3.0
        finally:
            env.close()
    assert process.wait(WATCHDOG) == 0


def test_serve_until_ctrl_c(serve: Any) -> None:
    process = serve("CartPole-v1")
    env = rlay.ClientEnv("CartPole-v1", timeout=WATCHDOG, attach_timeout=WATCHDOG)
    try:
        env.reset()
        process.send_signal(signal.SIGINT)
        assert process.wait(WATCHDOG) == 130
        with pytest.raises(rlay.PeerClosedError):
            env.step(0)
    finally:
        env.close()


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_ino) for p in root.iterdir()}


def locks_free(root: Path) -> dict[str, bool]:
    free = {}
    for path in root.glob("*.lock"):
        with path.open("rb+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free[path.name] = True
            except BlockingIOError:
                free[path.name] = False
    return free


def test_inspect_an_idle_channel(channel_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(rlay.ServerBackend(CHANNEL, Counter())):
        before, free = snapshot(channel_root), locks_free(channel_root)
        code, out, errors = run(capsys, "inspect", CHANNEL)
        assert (code, errors) == (0, "")
        for text in ("turn         idle", "claimed      no", "nobody yet", "none yet", "ENV, rlay"):
            assert text in out
        assert "observation" in out
        code, out, _ = run(capsys, "inspect", CHANNEL, "--json")
        report = json.loads(out)
        assert (code, report["turn"], report["claimed"]) == (0, "idle", False)
        assert (report["client"], report["welcome"]) == (None, None)
        assert report["server"]["role"] == "ENV"
        assert {f["name"] for f in report["fields"]} >= {"action", "observation", "reward"}
        assert snapshot(channel_root) == before
        assert locks_free(channel_root) == free


@pytest.mark.parametrize("mode", MODES)
def test_inspect_during_a_session(
    mode: str, channel_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hosted(mode, Counter(), CHANNEL) as env:
        env.reset()
        code, out, _ = run(capsys, "inspect", CHANNEL, "--json")
        report = json.loads(out)
        env_side = "server" if mode == "ClientEnv" else "client"
        assert (code, report["claimed"], report["turn"]) == (0, True, env_side_peer(env_side))
        assert report[env_side]["role"] == "ENV"
        assert report["welcome"]["status"] == "accepted"
        assert report["schema"]["groups"][0]["action"]["n"] == 1 << 62
        assert run(capsys, "inspect", CHANNEL)[0] == 0
        assert env.step(5)[1] == 5.0


def env_side_peer(side: str) -> str:
    return "client" if side == "server" else "server"


def test_inspect_shows_what_a_hello_hides(
    channel_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(rlay.ServerBackend(CHANNEL, Counter())):
        with (channel_root / f"{CHANNEL}.rlay").open("r+b") as file:
            file.seek(HEADER["server_hello"].offset + HELLO["library"].offset)
            file.write(b"\x1b[2Jrlay\0")
        assert "ENV, \\x1b[2Jrlay, process" in run(capsys, "inspect", CHANNEL)[1]


def test_inspect_an_agent_that_waits(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(rlay.MemServer(CHANNEL, rlay.Role.AGENT, features=rlay.Feature.NONE)):
        code, out, _ = run(capsys, "inspect", CHANNEL)
        assert (code, "no schema yet" in out) == (0, True)


def test_inspect_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, errors = run(capsys, "inspect", CHANNEL)
    assert (code, out) == (3, "")
    assert "there is no channel 'cli'" in errors
    assert run(capsys, "inspect", "../cli")[0] == 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "mapping"),
        (b"short", "file size is 5"),
        (bytes(4096), "file size is 4096"),
        (bytes(262144), "magic"),
    ],
)
def test_inspect_what_is_no_channel(
    content: bytes, text: str, channel_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = channel_root / f"{CHANNEL}.rlay"
    path.touch(0o600)
    path.write_bytes(content)
    code, out, errors = run(capsys, "inspect", CHANNEL)
    path.unlink()
    assert (code, out, text in errors) == (3, "", True)


def test_inspect_a_schema_that_lies(channel_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(rlay.ServerBackend(CHANNEL, Counter())):
        with (channel_root / f"{CHANNEL}.rlay").open("r+b") as file:
            file.seek(0x11000)
            file.write(b"nonsense")
        code, out, _ = run(capsys, "inspect", CHANNEL)
        assert (code, "problem" in out, "fingerprint" in out) == (0, True, True)
