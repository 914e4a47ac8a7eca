"""The file pulled away from the reference port, in both roles on both sides."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlay import atomics
from rlay.protocol.constants import TAIL_SIZE
from tests import pulled
from tests.c_programs import Compile, Start, finish, header_with, needs_cc, starting
from tests.peers import WATCHDOG, until

WIDE_PEER = ("wide_peer.c", "-O2")
CHANNEL_FORMAT = 8
ROUNDS = 6

pytestmark = [
    pytest.mark.one_twin,
    needs_cc,
]


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python sides have to survive, too."""
    if atomics.Shield is None:
        pytest.skip("the pure twin guards nothing")
    monkeypatch.setenv("RLAY_ATOMICS", "compiled")


@pytest.fixture
def start() -> Iterator[Start]:
    """As the general one, but what a program prints comes in one stream."""
    with starting(stderr=subprocess.STDOUT) as start_one:
        yield start_one


def problems(lines: list[str], least: int) -> list[str]:
    """Return everything that should not have been printed."""
    wrong = [line for line in lines if not line.startswith(f"cut {CHANNEL_FORMAT} ")]
    if not any("was truncated while it was in use" in line for line in lines):
        wrong.append("nobody says what happened")
    return wrong if len(lines) >= least else [*wrong, f"only {len(lines)} cuts"]


MODES = [("server", "ClientEnv"), ("client", "ServerEnv")]


@pytest.mark.parametrize("which", ["data", "control"])
@pytest.mark.parametrize(("side", "mode"), MODES)
def test_an_environment_in_c(
    side: str, mode: str, which: str, compile_c: Compile, start: Start, spawn: Any
) -> None:
    env = start(compile_c(*WIDE_PEER), "env", side, "pulled")
    agent = spawn(pulled.agent, mode, ROUNDS, which)
    assert agent.wait() == 0, agent.output()
    said = agent.said()
    assert [words[1] for words in said if words[0] == "cut"] == ["ChannelFormatError"] * ROUNDS
    assert not [words for words in said if words[0].startswith("wrong")]
    assert problems(finish(env).splitlines(), ROUNDS) == []


def cut_from_outside(pid: int, suffix: str, before: set[int]) -> bool:
    """Cut a file that a process has mapped, each one once; tell whether there was one."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            name = os.readlink(descriptor).removesuffix(" (deleted)")
            found = descriptor.stat()
            if "pulled" in name and name.endswith(suffix) and found.st_ino not in before:
                time.sleep(random.uniform(0.0, 0.02))
                # Fails for the descriptor a file is made with, which closes once it is mapped.
                os.truncate(
                    descriptor, random.choice((0, 100, 4096, found.st_size - TAIL_SIZE - 1))
                )
                before.add(found.st_ino)
                return True
    return False


def stay(lines: list[str], process: subprocess.Popen[str]) -> threading.Thread:
    """Collect what a process prints."""
    assert process.stdout
    stream = process.stdout
    thread = threading.Thread(target=lambda: lines.extend(line.rstrip("\n") for line in stream))
    thread.start()
    return thread


@pytest.mark.parametrize("suffix", [".data", ".rlay"])
@pytest.mark.parametrize(("side", "mode"), [("client", "ClientEnv"), ("server", "ServerEnv")])
def test_an_agent_in_c(
    side: str,
    mode: str,
    suffix: str,
    compile_c: Compile,
    start: Start,
    spawn: Any,
    channel_root: Path,
) -> None:
    host = spawn(pulled.host, mode)
    agent = start(compile_c(*WIDE_PEER), "agent", side, "pulled")
    lines: list[str] = []
    reader = stay(lines, agent)
    before: set[int] = set()
    for number in range(1, ROUNDS + 1):
        until(
            lambda: agent.poll() is not None or cut_from_outside(host.pid, suffix, before),
            f"file {number} is there; the agent said {lines}",
        )
    (channel_root / "done.lock").touch()
    assert agent.wait(WATCHDOG) == 0, lines
    reader.join()
    assert host.wait() == 0, host.output()
    assert problems(lines, 1) == []
    assert not [words for words in host.said() if words[0].startswith("wrong")]


ASKS = "return rlay__guard_is_lost(ch->data_guard) || rlay__guard_is_lost(ch->control_guard);"


@pytest.mark.leaves_files
@pytest.mark.parametrize(
    ("flags", "variables"),
    [(["-DRLAY_NO_SIGBUS"], {}), ([], {"RLAY_SIGBUS": "off"})],
    ids=["compiled without", "switched off"],
)
def test_without_the_guard_a_cut_kills(
    flags: list[str], variables: dict[str, str], compile_c: Compile, start: Start, spawn: Any
) -> None:
    env = start(compile_c(*WIDE_PEER, *flags), "env", "server", "pulled", **variables)
    spawn(pulled.agent, "ClientEnv", 30, "observation")  # of which some are seen in time
    finish(env, -signal.SIGBUS)


@pytest.mark.leaves_files
def test_zeros_would_be_noticed(
    compile_c: Compile, start: Start, spawn: Any, tmp_path: Path
) -> None:
    """With a guard that nobody asks, a value of the environment never arrives."""
    (tmp_path / "rlay.h").write_text(header_with((ASKS, "return (void)ch, 0;")))
    blind = compile_c(*WIDE_PEER, "-Wno-unused-function", f"-I{tmp_path}")
    start(blind, "env", "server", "pulled")
    agent = spawn(pulled.agent, "ClientEnv", 1, "observation", broken="nobody asks")
    assert agent.wait() == 3, agent.output()
    assert agent.said()[0][:2] == ["wrong observation", 0]
