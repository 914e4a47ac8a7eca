"""The reference port in C: a kill at every named point, and what the survivor does."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from tests.c_programs import Build, Start, finish, needs_make
from tests.c_script import PEER_LOST, SCRIPT_LINES, other, peer, play
from tests.peers import WATCHDOG

pytestmark = [
    pytest.mark.one_twin,
    pytest.mark.skipif(sys.platform == "win32", reason="the reference port is for POSIX systems"),
    needs_make,
]

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
    build: Build,
    start: Start,
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
        assert lines["agent"].splitlines() == SCRIPT_LINES
    else:
        out, err = survivor.communicate(timeout=WATCHDOG)
        print(
            f"survivor gone {1000 * (time.monotonic() - died):.0f} ms after the kill: {err.strip()}"
        )
        assert survivor.returncode == (0 if point == "closing" else 3)
        assert (f"error {PEER_LOST}: " in err) == (point != "closing")
        if survivor_role == "agent" and point != "closing":
            answered = count if point == "reply_handed_over" else count - 1
            assert out.splitlines() == SCRIPT_LINES[:answered]
    assert play(start, program, env_side).splitlines() == SCRIPT_LINES
