"""What other threads, the end of the interpreter and ``fork`` do to endpoints and sessions.

Theory of operation. Each endpoint has a guard (``rlay.atomics``), which its faces use
too: a second call while one is in progress, from another thread or from a signal handler,
is refused and changes nothing. ``close`` may come at any time: it ends what the other
call waits for, within a slice, and closes when that has returned.

An endpoint that is still open at exit, or is forgotten, says goodbye. A session that a
fork has carried into a child is the parent's: the child may neither write a record nor
say goodbye, and its locks are closed by ``rlay.channel.locks``.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from rlay import atomics
from rlay.channel.locks import forked_endpoint
from rlay.errors import LocalProtocolError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

#: How long ``close`` waits for a call in another thread to come to its end, seconds.
_CLOSE_PATIENCE = 2.0
_PAUSE = 0.001


class Guarded(Protocol):
    """What a guard lets one call at a time into."""

    guard: atomics.Guard


Owner = TypeVar("Owner", bound=Guarded)


def in_use() -> LocalProtocolError:
    """Return the error for a call that comes while another is in progress."""
    return LocalProtocolError(
        "this endpoint is in use by another call, in another thread or below a signal handler: "
        "one call at a time, so give each thread a channel of its own, or a lock; only close() "
        "may come at any time"
    )


def closed() -> LocalProtocolError:
    """Return the error for a call that comes, or still waits, when the endpoint is closed."""
    return LocalProtocolError("this endpoint is closed; make a new one")


def new_guard() -> atomics.Guard:
    """Return a guard for one endpoint, or for several that are used as one."""
    return atomics.Guard(in_use)


def alone(
    method: Callable[Concatenate[Owner, Parameters], Result],
) -> Callable[Concatenate[Owner, Parameters], Result]:
    """Let a method in only while no other one that is ``alone`` runs; else it is refused."""

    @functools.wraps(method)
    def guarded(self: Owner, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return self.guard(method, self, *args, **kwargs)

    return guarded


def close(guard: atomics.Guard, finish: Callable[[], None]) -> None:
    """Refuse all further calls, end the one in progress, and ``finish``.

    A call that waits for its peer ends within a slice; its thread or this one finishes,
    and this returns afterwards. A call that is somewhere else, such as in the code of an
    environment, is waited for for two seconds; then, or when it is below us in
    this very thread, it finishes at its own end.

    Args:
        guard: of the endpoint.
        finish: releases it; has to bear being called twice.
    """
    if guard.refusal is forked_endpoint:
        return
    guard.refusal = closed
    guard.after = finish
    guard.stop = True
    end = time.monotonic() + _CLOSE_PATIENCE
    while not guard.settle() and guard.owner != threading.get_ident() and time.monotonic() < end:
        time.sleep(_PAUSE)


class Closable(Guarded, Protocol):
    """What an endpoint is."""

    def close(self) -> None:
        """End the session and release the channel."""


class Forkable(Protocol):
    """What a session is."""

    def orphan(self) -> None:
        """Refuse every move from here on, and touch nothing."""


_open_endpoints: weakref.WeakSet[Closable] = weakref.WeakSet()
_sessions: weakref.WeakSet[Forkable] = weakref.WeakSet()


def forget(endpoint: Closable) -> None:
    """Say goodbye for an endpoint that nobody refers to any more, half made ones included."""
    with contextlib.suppress(Exception):
        endpoint.close()


def close_at_exit(endpoint: Closable) -> None:
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
    for endpoint in list(_open_endpoints):
        endpoint.guard.orphan(forked_endpoint)
    for session in list(_sessions):
        session.orphan()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
