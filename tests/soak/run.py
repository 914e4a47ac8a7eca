"""One soak: a pair of processes that steps, or attaches and closes, for long; looked at on the way.

The looks are at a tenth, when everything has been warmed up, at half and at the end.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.c_programs import compile_apart
from tests.chaos.casting import CPeer
from tests.chaos.ledger import HOLD, SESSIONS, STEPS, STOP, Ledger
from tests.peers import Child, Forge
from tests.soak import peers
from tests.soak.measure import MEMORY_ALLOWED, Look, growth, held

#: A soak that makes no progress for so long is stuck, seconds.
PATIENCE = 60.0
LOOKS = (0.1, 0.5, 1.0)
#: How long the sides rest before the last look, seconds.
REST = 0.1


@dataclasses.dataclass(frozen=True)
class Soak:
    """What to run.

    Attributes:
        name: of the channel.
        mode: ``ClientEnv`` or ``ServerEnv``.
        env: ``python`` or ``c``.
        agent: the same.
        steps: of each session.
        sessions: how many.
        twin: of the atomics in Python.
        leaks: of ``peers.LEAKS``, on ``leaky``'s side; for the negative controls.
        leaky: ``env`` or ``agent``.
    """

    name: str
    mode: str
    env: str
    agent: str
    steps: int
    sessions: int = 1
    twin: str = "compiled"
    leaks: str | None = None
    leaky: str = "env"


@dataclasses.dataclass
class Result:
    """What came of it."""

    soak: Soak
    looks: list[Look]
    findings: list[str]


def build() -> tuple[tempfile.TemporaryDirectory[str], str] | None:
    """Compile ``peer.c``; None where there is no compiler."""
    return compile_apart(Path(__file__).with_name("peer.c"))


def _goal(soak: Soak, look: int) -> int:
    """Return the count at which this look is due."""
    return max(1, int(LOOKS[look] * (soak.sessions if soak.sessions > 1 else soak.steps)))


def _start(forge: Forge, program: str, soak: Soak, role: str, folder: Path) -> Child | CPeer:
    path, out = folder / f"{role}.ledger", folder / f"{role}.out"
    told = Ledger(path)
    told.words[HOLD] = _goal(soak, 0) if soak.sessions > 1 else 1
    told.close()
    if getattr(soak, role) == "c":
        side = "server" if (soak.mode == "ClientEnv") == (role == "env") else "client"
        numbers = [str(soak.steps), str(soak.sessions)]
        return CPeer([program, role, side, soak.name, str(path), *numbers], out)
    place: dict[str, Any] = {
        "channel": soak.name,
        "mode": soak.mode,
        "ledger": str(path),
        "steps": soak.steps,
        "sessions": soak.sessions,
        "twin": soak.twin,
        "leaks": soak.leaks if soak.leaky == role else None,
    }
    return forge.start(out, peers.host if role == "env" else peers.agent, place)


def run(
    soak: Soak, forge: Forge, program: str = "", *, memory_allowed: int = MEMORY_ALLOWED
) -> Result:
    """Run one soak in ``$RLAY_DIR``."""
    root = Path(os.environ["RLAY_DIR"])
    with tempfile.TemporaryDirectory(prefix="rlay-soak-") as name:
        folder = Path(name)
        processes = {role: _start(forge, program, soak, role, folder) for role in ("env", "agent")}
        ledgers = {role: Ledger(folder / f"{role}.ledger") for role in processes}
        try:
            looks = _look_on(soak, processes, ledgers, root)
            findings = [] if len(looks) == len(LOOKS) else ["it did not come to its end"]
            if looks:
                findings += growth(looks, memory_allowed)
            for role in ("agent", "env"):
                ledgers[role].words[STOP] = 1
                code = _end(processes[role])
                if code != 0:
                    findings.append(f"{role} ended with {code}: {processes[role].output()[-500:]}")
        finally:
            for process in processes.values():
                if process.poll() is None:
                    process.signal(9)
                    _end(process)
            for kept in ledgers.values():
                kept.close()
    files = sorted(path.name for path in root.iterdir() if path.suffix != ".lock")
    findings += [f"left: {file}" for file in files]
    return Result(soak, looks, findings)


def _look_on(soak: Soak, processes: Any, ledgers: Any, root: Path) -> list[Look]:
    """Return the looks that were possible until the end, or until the pair got stuck."""
    begin = moved = time.monotonic()
    word = SESSIONS if soak.sessions > 1 else STEPS
    looks: list[Look] = []
    last = 0
    while len(looks) < len(LOOKS):
        if any(process.poll() is not None for process in processes.values()):
            return looks
        done = ledgers["agent"].words[word]
        now = time.monotonic()
        if done != last:
            last, moved = done, now
        elif now > moved + PATIENCE:
            return looks
        if done < _goal(soak, len(looks)):
            time.sleep(0.01)
            continue
        if word == SESSIONS or len(looks) == len(LOOKS) - 1:
            time.sleep(REST)
        sides = {role: held(process.pid, root) for role, process in processes.items()}
        files = len(list(root.iterdir()))
        looks.append(Look(done, now - begin, sides["env"], sides["agent"], files))
        if word == SESSIONS and len(looks) < len(LOOKS):
            ledgers["agent"].words[HOLD] = _goal(soak, len(looks))
    return looks


def _end(process: Any) -> int | None:
    end = time.monotonic() + PATIENCE
    while (code := process.poll()) is None and time.monotonic() < end:
        time.sleep(0.01)
    return code
