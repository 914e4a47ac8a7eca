"""Which channels a run has: Python and C in all pairings and both modes, and a vector."""

from __future__ import annotations

import dataclasses
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from rlay import atomics
from tests.c_programs import compile_apart
from tests.chaos import actors, broken, ledger
from tests.peers import Child, Forge

#: Seconds an agent waits for a reply, and either side for its peer.
TIMEOUT, ATTACH = 1.0, 2.0
SOURCE = Path(__file__).with_name("peer.c")


@dataclasses.dataclass(frozen=True)
class Cast:
    """One channel: its mode, and the language of either side.

    Attributes:
        name: of the channel.
        mode: ``ClientEnv``, ``ServerEnv`` or ``make_vec``.
        env: ``python``, ``loop`` (Python with a loop of its own), ``c``, or None for make_vec.
        agent: ``python`` or ``c``.
        kinds: the disturbances it gets; None for all of them.
        calm: how often a burst is followed by a calm, from 0 to 1.
        fault: a name of ``broken.FAULTS``.
    """

    name: str
    mode: str
    env: str | None
    agent: str
    kinds: tuple[str, ...] | None = None
    calm: float = 0.15
    fault: str | None = None


CASTS = (
    Cast("python-python", "ClientEnv", "python", "python"),
    Cast("python-python-game", "ServerEnv", "loop", "python"),
    Cast("c-python", "ClientEnv", "c", "python"),
    Cast("c-python-game", "ServerEnv", "c", "python"),
    Cast("python-c", "ClientEnv", "loop", "c"),
    Cast("python-c-game", "ServerEnv", "python", "c"),
    Cast("c-c", "ClientEnv", "c", "c"),
    Cast("c-c-game", "ServerEnv", "c", "c"),
    Cast("late", "ClientEnv", "python", "python", ("stop",)),
    Cast("vector", "make_vec", None, "python"),
)


def build_c_peer() -> tuple[tempfile.TemporaryDirectory[str], str] | None:
    """Compile ``peer.c``; None where there is no compiler."""
    return compile_apart(SOURCE, "-ffp-contract=off")


class CPeer:
    """A C peer, with the few calls of ``tests.peers.Child``."""

    def __init__(self, command: list[str], out: Path) -> None:
        self._out = out
        with out.open("ab") as stream:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def output(self) -> str:
        return self._out.read_text()


class Theatre:
    """Starts the peers of a run: a forge for Python, a compiled program for C.

    Attributes:
        folder: where ledgers and outputs are.
    """

    def __init__(self, folder: Path, c_peer: str | None) -> None:
        self.folder, self._c_peer = folder, c_peer
        self.forge = Forge()

    def start(self, cast: Cast, role: str, salt: int, draw: Any) -> Child | CPeer:
        """Start one peer; ``draw`` is the channel's generator of random numbers."""
        path = self.folder / f"{cast.name}.{role}.ledger"
        ledger.Ledger(path).close()
        seed, ends = draw.getrandbits(62), draw.random() < 0.5
        twin = "pure" if draw.random() < 0.3 or atomics.Exchange is None else "compiled"
        at_fault = "agent" if cast.fault in broken.OF_THE_AGENT else "env"
        fault = cast.fault if at_fault == role else None
        out = self.folder / f"{cast.name}.{role}.out"
        language = cast.env if role == "env" else cast.agent
        if language == "c":
            side = "server" if (cast.mode == "ClientEnv") == (role == "env") else "client"
            assert self._c_peer is not None, "the C peer was not built"
            numbers = map(str, (salt, seed, TIMEOUT, ATTACH))
            command = [self._c_peer, role, side, cast.name, str(path), *numbers]
            return CPeer([*command, *([fault] if fault else [])], out)
        place = {
            "channel": cast.name,
            "mode": cast.mode,
            "salt": salt,
            "ledger": str(path),
            "seed": seed,
            "twin": twin,
            "timeout": TIMEOUT,
            "attach": ATTACH,
            "loop": language == "loop",
            "ends": ends,
            "fault": fault,
        }
        return self.forge.start(out, actors.host if role == "env" else actors.agent, place)

    def close(self) -> None:
        """End what still runs."""
        self.forge.close()
