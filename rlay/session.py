"""One session over an attached channel: requests and replies, by role.

Whoever owns the file, the agent sends requests and the environment answers
them; this class is that conversation. Both endpoints make it: ``MemServer``
after a client's hello, ``MemClient`` after a server's welcome.
"""

from __future__ import annotations

from rlay.agent_moves import AgentMoves
from rlay.env_moves import EnvMoves


class Session(AgentMoves, EnvMoves):
    """The conversation of one agent and one environment; who holds it makes one role's moves.

    Attributes:
        schema: what flows.
        layout: where it lies.
        features: bits both sides offer.
        peer: the other side's hello.
        exchange: the compiled path for ordinary steps, where there is one.
    """
