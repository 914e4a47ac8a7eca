"""What was in the shared memory at the instant of death, and so what the survivor must see.

The victim looks at its own mappings just before it dies (for a C victim, its tracer does). Of
these words none changes any more except by the survivor's next move, and each rule below reads
them so that such a move makes no difference. The rules are PROTOCOL.md §11's table.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from rlay.protocol.constants import TURN_IDLE, Side, Welcome
from rlay.protocol.header import HEADER
from rlay.protocol.prefix import PREFIX
from tests.sweep.story import EXCHANGES, WHOLE, is_agent, is_server

LOST, CLOSED, DONE = "PeerLostError", "PeerClosedError", "done"

#: How many exchanges the survivor completed with the victim, and how that ended; None: it
#: never had a session with it.
Outcome = tuple[int, str] | None


@dataclasses.dataclass(frozen=True)
class Truth:
    """The words that decide.

    Attributes:
        mapped: whether the victim had a claimed control file.
        turn: the turn word.
        bye: the victim's bye word.
        welcome: the status of the welcome.
        asked: seq of the request record; 0 without a data file.
        answered: seq of the reply record; 0 without a data file.
        named: whether the data file still had its name: no client has attached.
    """

    mapped: bool = False
    turn: int = 0
    bye: int = 0
    welcome: int = 0
    asked: int = 0
    answered: int = 0
    named: bool = False


Memory = bytes | bytearray | memoryview


def _word(control: Memory, name: str) -> int:
    at = HEADER[name].offset
    return int.from_bytes(control[at : at + 4], "little")


def read_truth(
    side: Side, root: Path, channel: str, controls: Sequence[Memory], datas: Sequence[Memory]
) -> Truth:
    """Read the victim's control files and data files, in the order in which it mapped them."""
    for control in controls:
        if not _word(control, "claim"):
            continue
        turn = _word(control, "turn")  # first: see the module's text
        at = HEADER["generation"].offset
        generation = int.from_bytes(control[at : at + 8], "little")
        asked = answered = 0
        for data in datas:
            request = PREFIX.unpack_from(data, 0)
            at = HEADER["request_size"].offset
            size = int.from_bytes(control[at : at + 8], "little")
            if request[4] == generation and 0 < size < len(data):
                asked, answered = request[0], PREFIX.unpack_from(data, size)[0]
        return Truth(
            mapped=True,
            turn=turn,
            bye=_word(control, f"{side.name.lower()}_bye"),
            welcome=_word(control, "welcome_status"),
            asked=asked,
            answered=answered,
            named=os.path.exists(root / f"{channel}.{generation:016x}.data"),
        )
    return Truth()


def _has_session(truth: Truth, victim: str) -> bool:
    """Tell whether the handshake had come so far that the survivor has, or will get, a session."""
    if not truth.mapped or truth.turn == TURN_IDLE:
        return False
    running = truth.asked > 0
    ready = truth.turn == Side.SERVER and truth.welcome == Welcome.ACCEPTED and not truth.named
    if victim == "ServerBackend":  # its client has a session once the welcome is handed over
        return running or truth.turn == Side.CLIENT
    if victim == "ServerEnv":  # the same, but READY brings the turn back before any request
        return running or truth.turn == Side.CLIENT or ready
    if victim == "ClientEnv":  # its server has a session once the hello is handed over
        return True
    return running or ready  # ClientBackend: its server has one once READY is handed over


def expected(truth: Truth, victim: str, *, at_once: bool) -> list[Outcome]:
    """Return what the survivor may see of the victim.

    Args:
        truth: at the victim's death.
        victim: the class it played.
        at_once: whether the successor started without waiting for the survivor to notice.
    """
    if not _has_session(truth, victim):
        return [None]
    agent_side = Side.SERVER if is_server(victim) == is_agent(victim) else Side.CLIENT
    if is_agent(victim):
        # Requests handed over; while the victim has the turn it may be writing the next one.
        count = truth.answered if truth.turn == agent_side else truth.asked
        whole = count >= WHOLE
    else:
        # Replies handed over; while the victim has the turn it may be writing this one.
        count = truth.answered if truth.turn == agent_side else max(0, truth.asked - 1)
        whole = count >= WHOLE - 1
    if whole:
        return [(len(EXCHANGES), DONE)]
    outcomes: list[Outcome] = [(count, CLOSED if truth.bye else LOST)]
    if is_server(victim) and truth.named and at_once:
        # The successor may have removed the data file before the client came to it.
        outcomes.append(None)
    return outcomes
