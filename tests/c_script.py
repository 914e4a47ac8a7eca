"""The scripted peer of the reference port: how it is started, and what it has to say."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.c_programs import Start, finish

CHANNEL = "c-port"
LOCKS = [f"{CHANNEL}.client.lock", f"{CHANNEL}.server.lock"]
PEER_LOST = 17


def peer(start: Start, program: Path, side: str, role: str, *more: str) -> subprocess.Popen[str]:
    """Start a scripted peer."""
    return start(program, "--side", side, "--role", role, "--channel", CHANNEL, *more)


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


#: The scripted agent's lines, computed here from the text in scripted_peer.c.
SCRIPT_LINES = list(script_lines())
