"""Python and C in all four pairings and both modes: the same script, the same lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.c_programs import Build, needs_make
from tests.peers import ROOT, WATCHDOG

pytestmark = needs_make


def _expected_lines() -> list[str]:
    """Play the script in this process, without a channel."""
    program = (
        "from tests.scripted_peer import *\n"
        "class Here(ScriptedEnv):\n"
        "    def step(self, action):\n"
        "        try:\n"
        "            return super().step(action)\n"
        "        except ValueError as error:\n"
        "            raise rlay.RemoteError('ValueError', str(error)) from None\n"
        "ScriptedAgent(Here()).play()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def _command(language: str, build: Build) -> list[str]:
    if language == "python":
        return [sys.executable, str(ROOT / "tests/scripted_peer.py")]
    return [str(build("scripted_peer" if language == "c" else "scripted_peer_sanitize"))]


@pytest.mark.parametrize("agent_side", ["client", "server"])
@pytest.mark.parametrize("agent", ["python", "c", "sanitized_c"])
@pytest.mark.parametrize("env", ["python", "c", "sanitized_c"])
def test_every_pairing_plays_the_same_episode(
    env: str, agent: str, agent_side: str, build: Build, channel_root: Path
) -> None:
    env_side = "server" if agent_side == "client" else "client"
    commands = {
        "env": [*_command(env, build), "--side", env_side, "--role", "env"],
        "agent": [*_command(agent, build), "--side", agent_side, "--role", "agent"],
    }
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for role, command in commands.items():
            processes[role] = subprocess.Popen(
                [*command, "--channel", "script", "--timeout", "20"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        lines, problem = processes["agent"].communicate(timeout=WATCHDOG)
        assert processes["agent"].returncode == 0, problem
        _, problem = processes["env"].communicate(timeout=WATCHDOG)
        assert processes["env"].returncode == 0, problem
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    assert lines.splitlines() == _expected_lines()
    assert sorted(p.name for p in channel_root.iterdir()) == [
        "script.client.lock",
        "script.server.lock",
    ]
