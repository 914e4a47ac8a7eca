"""What ``MemServer`` and ``MemClient`` both are: one side of a channel, and its sessions."""

from __future__ import annotations

import abc
import os
import platform
from collections.abc import Callable

from rlay import atomics
from rlay._version import __version__
from rlay.channel import files
from rlay.channel.channel import Channel
from rlay.channel.wait import wait_strategy
from rlay.lifetime import close, close_at_exit, forget, new_guard
from rlay.protocol.constants import Feature, Role
from rlay.protocol.env_block import read_env_block
from rlay.protocol.header import Hello
from rlay.protocol.layout import Layout
from rlay.protocol.schema import Schema, compile_layout
from rlay.session import Session


def _our_hello(role: Role, features: Feature) -> Hello:
    """Return the hello of this process."""
    return Hello(
        role=role,
        features=features,
        pid=os.getpid(),
        library=f"rlay-python {__version__}",
        host=platform.node(),
    )


class Endpoint(abc.ABC):
    """One side of a channel; it has one session at a time.

    Attributes:
        role: ENV or AGENT.
        paths: of the channel's files.
        guard: lets in one call at a time, in whatever thread, and ``close()`` always.
    """

    def __init__(
        self,
        name: str,
        role: Role,
        *,
        features: Feature,
        schema: Schema | None = None,
        accepts: Callable[[Schema], None] | None = None,
        starting: Callable[[], None] | None = None,
        wait: str | None = None,
        guard: atomics.Guard | None = None,
    ) -> None:
        """Check the name, compile the schema, and take what this side has without a peer.

        Args:
            name: of the channel.
            role: ENV or AGENT.
            features: what this side offers.
            schema: what flows; required of ENV, and of no one else.
            accepts: called with the peer's schema before there is a session; raises if it is
                not wanted, which is what a server rejects its client with.
            starting: called again and again while there is no peer; raises if none can come.
            wait: alias of a wait strategy (rlay/channel/wait.py); None takes RLAY_WAIT.
            guard: of the face that uses this endpoint; left out, one of its own.

        Raises:
            ChannelBusyError: a live server has this name (``MemServer``); tells who.
            UnsafePathError: something else is at one of the paths.
            NoSpaceError: the file system is full.
        """
        self.guard = guard or new_guard()
        self.role, self._schema, self._accepts = role, schema, accepts
        self._starting = starting
        self._wait = wait
        wait_strategy(wait)
        self._layout = compile_layout(schema) if schema else None
        self._hello = _our_hello(role, features)
        self.paths = files.Paths(name)
        self._channel: Channel | None = None
        self._session: Session | None = None
        self._begin()
        close_at_exit(self)

    @abc.abstractmethod
    def _begin(self) -> None:
        """Take what this side has without a peer; what fails is undone."""

    @abc.abstractmethod
    def open_session(self, timeout: float | None) -> Session:
        """Return the session with the next peer, for a face that holds the guard."""

    @abc.abstractmethod
    def shut(self) -> None:
        """Do what ``close`` does, for a face that holds the guard."""

    def _offer(self, channel: Channel, header: bytes, where: str) -> tuple[Schema, Layout]:
        """Return what flows: ours if we are the environment, else the peer's, if we accept it."""
        if self._schema and self._layout:
            return self._schema, self._layout
        schema, layout = read_env_block(channel.mapping.memory, header, where)
        if self._accepts:
            self._accepts(schema)
        return schema, layout

    def close(self) -> None:
        """End the session and release the channel, in any thread; twice is fine."""
        close(self.guard, self.shut)

    def __del__(self) -> None:
        """Say goodbye when forgotten."""
        forget(self)
