"""Python and C in all four pairings and both modes: the same script, the same lines."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WATCHDOG = 90.0
pytestmark = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("make")), reason="there is no C compiler"
)


@pytest.fixture(scope="session")
def c_peer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return a function that builds a C program, plain or sanitized, once."""
    folder = tmp_path_factory.mktemp("c")

    def build(name: str) -> str:
        subprocess.run(
            ["make", "-C", ROOT / "ports/reference_c", f"BUILD={folder}", folder / name],
            check=True,
            capture_output=True,
            timeout=WATCHDOG,
        )
        return str(folder / name)

    return build


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


def _command(language: str, c_peer: Callable[[str], str]) -> list[str]:
    if language == "python":
        return [sys.executable, str(ROOT / "tests/scripted_peer.py")]
    return [c_peer("scripted_peer" if language == "c" else "scripted_peer_sanitize")]


@pytest.mark.parametrize("agent_side", ["client", "server"])
@pytest.mark.parametrize("agent", ["python", "c", "sanitized_c"])
@pytest.mark.parametrize("env", ["python", "c", "sanitized_c"])
def test_every_pairing_plays_the_same_episode(
    env: str, agent: str, agent_side: str, c_peer: Callable[[str], str], channel_root: Path
) -> None:
    env_side = "server" if agent_side == "client" else "client"
    commands = {
        "env": [*_command(env, c_peer), "--side", env_side, "--role", "env"],
        "agent": [*_command(agent, c_peer), "--side", agent_side, "--role", "agent"],
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
