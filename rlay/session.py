"""One session over an attached channel: requests and replies, by role.

Whoever owns the file, the agent sends requests and the environment answers
them; this class is that conversation. Both endpoints make it: ``MemServer``
after a client's hello, ``MemClient`` after a server's welcome.
"""

from __future__ import annotations

import os
import platform

from rlay._version import __version__
from rlay.agent_moves import AgentMoves
from rlay.env_moves import EnvMoves
from rlay.protocol.constants import Feature, Role
from rlay.protocol.header import Hello


def our_hello(role: Role, features: Feature) -> Hello:
    """Return the hello of this process."""
    return Hello(
        role=role,
        features=features,
        pid=os.getpid(),
        library=f"rlay-python {__version__}",
        host=platform.node(),
    )


class Session(AgentMoves, EnvMoves):
    """The conversation of one agent and one environment; who holds it makes one role's moves.

    Attributes:
        schema: what flows.
        layout: where it lies.
        features: bits both sides offer.
        peer: the other side's hello.
        exchange: the compiled path for ordinary steps, where there is one.
    """
