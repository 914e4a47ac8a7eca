"""What the end of the interpreter and ``fork`` do to endpoints and sessions.

An endpoint that is still open at exit says goodbye. A session that a fork has
carried into a child is the parent's: the child may neither write a record nor
say goodbye, and its locks are closed by ``rlay.channel.locks``.
"""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol


class Endpoint(Protocol):
    """What both ``MemServer`` and ``MemClient`` are."""

    def close(self) -> None:
        """End the session and release the channel."""


class Forkable(Protocol):
    """What a session is."""

    def orphan(self) -> None:
        """Refuse every move from here on, and touch nothing."""


_open_endpoints: weakref.WeakSet[Endpoint] = weakref.WeakSet()
_sessions: weakref.WeakSet[Forkable] = weakref.WeakSet()


def close_at_exit(endpoint: Endpoint) -> None:
    """Say goodbye for an endpoint that is still open when the interpreter exits."""
    _open_endpoints.add(endpoint)


def orphan_in_child(session: Forkable) -> None:
    """Take a session away from a forked child."""
    _sessions.add(session)


@atexit.register
def _close_all() -> None:
    for endpoint in list(_open_endpoints):
        endpoint.close()


def _after_fork_in_child() -> None:
    for session in list(_sessions):
        session.orphan()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
